#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/spec/job_file.h"
#include "proto/spec/resolve.h"

namespace finetuned::spec {
namespace {

using testing::HasSubstr;

v1::JobSpec Example() {
  std::ifstream in(FINETUNED_SOURCE_DIR "/deploy/examples/grpo.yaml");
  std::stringstream text;
  text << in.rdbuf();
  const auto job = ParseJobFile(text.str(), "grpo.yaml");
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? job->spec() : v1::JobSpec();
}

std::string Violations(const v1::JobSpec& spec) {
  std::string text;
  for (const Violation& v : ValidateSpec(spec)) text += v.path + ": " + v.message + "\n";
  return text;
}

TEST(GrpoSpec, TheShippedExampleIsValid) {
  const v1::JobSpec spec = Example();
  EXPECT_EQ(Violations(spec), "");
  const auto resolved = ResolveSpec(spec, {2048, true});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->grpo().builtin_rewards(1).args().at("max"), "8");
  EXPECT_EQ(resolved->checkpoints().best_metric(), "eval_reward");
}

TEST(GrpoSpec, DefaultsAreTrls) {
  v1::JobSpec spec;
  spec.set_base_model("m");
  spec.set_dataset("d");
  spec.mutable_grpo()->add_builtin_rewards()->set_name("format");
  spec.mutable_grpo()->mutable_remote_reward()->add_reward_names("mine");
  ASSERT_EQ(Violations(spec), "");
  const auto resolved = ResolveSpec(spec, {2048, false});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  ASSERT_TRUE(resolved->has_grpo());
  const v1::GrpoSpec& g = resolved->grpo();
  EXPECT_EQ(g.group_size(), 8);
  EXPECT_EQ(g.beta(), 0);
  EXPECT_EQ(g.clip_low(), 0.2);
  EXPECT_EQ(g.clip_high(), 0.2);
  EXPECT_EQ(g.loss_type(), "dapo");
  EXPECT_EQ(g.advantage_scale(), "group");
  EXPECT_EQ(g.importance_sampling(), "token");
  EXPECT_EQ(g.max_completion_tokens(), 512);
  EXPECT_TRUE(g.use_bias_correction_kl());
  EXPECT_EQ(g.builtin_rewards(0).weight(), 1);
  EXPECT_EQ(g.remote_reward().weights(0), 1);
  EXPECT_EQ(g.remote_reward().batch_timeout().seconds(), 60);
  EXPECT_EQ(g.remote_reward().max_attempts(), 3);
  EXPECT_EQ(resolved->optimizer().learning_rate(), 1e-6);
  EXPECT_EQ(resolved->schedule().micro_batch_size() * resolved->schedule().gradient_accumulation_steps() % 8, 0);
}

TEST(GrpoSpec, TheCapOfCispoIsItsOwn) {
  v1::JobSpec spec = Example();
  spec.mutable_grpo()->set_loss_type("cispo");
  spec.mutable_grpo()->clear_clip_high();
  EXPECT_EQ(ResolveSpec(spec, {2048, true})->grpo().clip_high(), 5);
}

TEST(GrpoSpec, EveryWrongFieldIsNamed) {
  v1::JobSpec spec = Example();
  v1::GrpoSpec* g = spec.mutable_grpo();
  g->set_group_size(1);
  g->set_loss_type("dappo");
  g->set_temperature(0);
  g->set_top_p(1.5);
  g->add_stop("");
  g->mutable_builtin_rewards(0)->set_name("numerc");
  g->mutable_remote_reward()->add_reward_names("numeric");
  g->mutable_remote_reward()->add_weights(1);
  g->mutable_remote_reward()->add_weights(1);
  const std::string found = Violations(spec);
  for (const char* text :
       {"job.spec.grpo.group_size: must be 2 to 1024, got 1", "did you mean dapo?", "job.spec.grpo.temperature:",
        "job.spec.grpo.top_p:", "job.spec.grpo.stop[0]:", "job.spec.grpo.builtin_rewards[0].name: got \"numerc\"",
        "did you mean numeric?", "or is a built-in reward", "has 2 entries for 1 rewards"}) {
    EXPECT_THAT(found, HasSubstr(text));
  }
  g->clear_remote_reward();
  g->clear_builtin_rewards();
  EXPECT_THAT(Violations(spec), HasSubstr("at least one reward is required"));
}

TEST(GrpoSpec, TheBestMetricIsOneOfItsRewards) {
  v1::JobSpec spec = Example();
  spec.mutable_grpo()->add_builtin_rewards()->set_name("length");  // the second of this name
  spec.mutable_grpo()->mutable_remote_reward()->add_reward_names("mine");
  for (const char* name : {"eval_reward", "eval_rewards/numeric/mean", "eval_rewards/length_2/mean", "eval_rewards/mine/mean"}) {
    spec.mutable_checkpoints()->set_best_metric(name);
    EXPECT_EQ(Violations(spec), "");
  }
  spec.mutable_checkpoints()->set_best_metric("eval_rewrd");
  EXPECT_THAT(Violations(spec), HasSubstr("job.spec.checkpoints.best_metric: got \"eval_rewrd\""));
  EXPECT_THAT(Violations(spec), HasSubstr("did you mean eval_reward?"));
}

TEST(GrpoSpec, ACompletionNeedsRoomForItsPrompt) {
  v1::JobSpec spec = Example();
  spec.mutable_grpo()->set_max_completion_tokens(128);
  const auto resolved = ResolveSpec(spec, {2048, true});
  EXPECT_THAT(std::string(resolved.status().message()), HasSubstr("128 leave no room for a prompt"));
}

}  // namespace
}  // namespace finetuned::spec
