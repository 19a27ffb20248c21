#include "proto/spec/resolve.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/spec/start_adapter.h"

namespace finetuned::spec {
namespace {

using ::testing::HasSubstr;

v1::JobSpec Minimal() {
  v1::JobSpec spec;
  spec.set_base_model("models/m");
  spec.set_dataset("datasets/d");
  spec.mutable_sft();
  return spec;
}

// "path: message" of the only violation.
std::string OnlyViolation(const v1::JobSpec& spec) {
  const auto violations = ValidateSpec(spec);
  if (violations.size() != 1) return "violations: " + std::to_string(violations.size());
  return violations[0].path + ": " + violations[0].message;
}

TEST(ValidateSpec, MinimalSpecIsValid) { EXPECT_TRUE(ValidateSpec(Minimal()).empty()); }

TEST(ValidateSpec, EmptySpecNamesEveryRequiredField) {
  std::vector<std::string> paths;
  for (const auto& v : ValidateSpec({})) paths.push_back(v.path);
  EXPECT_THAT(paths, ::testing::ElementsAre("job.spec.base_model", "job.spec.dataset", "job.spec.method"));
}

TEST(ValidateSpec, RangesAreNamedWithTheValue) {
  v1::JobSpec spec = Minimal();
  spec.mutable_lora()->set_rank(-1);
  EXPECT_EQ(OnlyViolation(spec), "job.spec.lora.rank: must be 1 to 1024, got -1");
  spec = Minimal();
  spec.mutable_lora()->set_dropout(1.0);
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("must be at least 0 and below 1, got 1"));
  spec = Minimal();
  spec.mutable_optimizer()->set_learning_rate(std::nan(""));
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("job.spec.optimizer.learning_rate"));
  spec = Minimal();
  spec.mutable_schedule()->set_epochs(0);
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("must be above 0"));
}

TEST(ValidateSpec, NamesAreSuggested) {
  v1::JobSpec spec = Minimal();
  spec.mutable_optimizer()->set_scheduler("lineer");
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("got \"lineer\"; allowed: linear, cosine"));
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("did you mean linear?"));
  spec = Minimal();
  spec.mutable_lora()->add_target_modules("q_prok");
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("lora.target_modules[0]"));
}

TEST(ValidateSpec, SchedulersNameWhatTheyNeed) {
  v1::JobSpec spec = Minimal();
  spec.mutable_optimizer()->set_scheduler("warmup_stable_decay");
  EXPECT_THAT(OnlyViolation(spec), HasSubstr("decay_steps: is required"));
}

TEST(ResolveSpec, FillsEveryDefault) {
  const auto spec = ResolveSpec(Minimal(), {.model_max_length = 512, .has_gpu = false});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->lora().rank(), 16);
  EXPECT_EQ(spec->lora().alpha(), 32);
  EXPECT_EQ(spec->optimizer().kind(), "adamw_8bit");
  EXPECT_EQ(spec->optimizer().learning_rate(), 2e-4);
  EXPECT_EQ(spec->schedule().epochs(), 3);
  EXPECT_EQ(spec->schedule().max_seq_length(), 512);
  EXPECT_TRUE(spec->schedule().shuffle());
  EXPECT_EQ(spec->quantization().base(), "nf4");
  EXPECT_EQ(spec->compute().dtype(), "f32");
  EXPECT_EQ(spec->compute().device(), "cpu");
  EXPECT_EQ(spec->seed(), 42);
  EXPECT_EQ(ResolveSpec(Minimal(), {.model_max_length = 0, .has_gpu = true})->compute().dtype(), "bf16");
}

TEST(ResolveSpec, KeepsWhatIsSet) {
  v1::JobSpec in = Minimal();
  in.set_seed(0);
  in.mutable_optimizer()->set_learning_rate(0);
  in.mutable_schedule()->set_shuffle(false);
  in.mutable_optimizer()->set_max_grad_norm(0);
  const auto spec = ResolveSpec(in, {});
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->seed(), 0);
  EXPECT_EQ(spec->optimizer().learning_rate(), 0);
  EXPECT_FALSE(spec->schedule().shuffle());
  EXPECT_EQ(spec->optimizer().max_grad_norm(), 0);
}

TEST(ResolveSpec, IsStable) {
  const auto once = ResolveSpec(Minimal(), {.model_max_length = 512, .has_gpu = true});
  const auto twice = ResolveSpec(*once, {.model_max_length = 512, .has_gpu = true});
  EXPECT_EQ(once->SerializeAsString(), twice->SerializeAsString());
}

TEST(ResolveSpec, RefusesSequencesAboveTheModelsLimit) {
  v1::JobSpec in = Minimal();
  in.mutable_schedule()->set_max_seq_length(4096);
  const auto spec = ResolveSpec(in, {.model_max_length = 2048, .has_gpu = false});
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr("4096 is above the model's limit of 2048"));
}

TEST(ResolveSpec, NewTokensTrainEmbeddingAndHead) {
  v1::JobSpec in = Minimal();
  in.mutable_lora()->add_new_tokens("<think>");
  const auto spec = ResolveSpec(in, {});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_EQ(spec->lora().modules_to_save_size(), 2);
  EXPECT_EQ(spec->lora().modules_to_save(0), "embed_tokens");
  EXPECT_EQ(spec->lora().modules_to_save(1), "lm_head");
}

TEST(ValidateSpec, BiasesDoNotDecay) {
  v1::JobSpec in = Minimal();
  in.mutable_lora()->set_bias("lora_only");
  EXPECT_TRUE(ValidateSpec(in).empty());
  in.mutable_optimizer()->set_weight_decay(0.01);
  ASSERT_EQ(ValidateSpec(in).size(), 1u);
  EXPECT_EQ(ValidateSpec(in)[0].path, "job.spec.optimizer.weight_decay");
}

TEST(StartAdapter, ItsBiasesAreTaken) {
  StartAdapter start{8, 4, false, {"q_proj"}};
  start.bias = "all";
  v1::LoraSpec lora;
  lora.set_bias("none");
  ASSERT_EQ(CheckStartAdapter(start, lora).size(), 1u);
  EXPECT_EQ(CheckStartAdapter(start, lora)[0].path, "job.spec.lora.bias");
  lora.clear_bias();
  TakeStartAdapter(start, &lora);
  EXPECT_EQ(lora.bias(), "all");
}

TEST(StartAdapter, GivesRankAndTargetsAndNamesWhatDiffers) {
  const StartAdapter start{8, 4, true, {"v_proj", "q_proj"}};
  v1::LoraSpec lora;
  EXPECT_TRUE(CheckStartAdapter(start, lora).empty());
  TakeStartAdapter(start, &lora);
  EXPECT_EQ(lora.rank(), 8);
  EXPECT_EQ(lora.alpha(), 4);
  EXPECT_TRUE(lora.use_rslora());
  EXPECT_THAT(lora.target_modules(), testing::ElementsAre("q_proj", "v_proj"));
  EXPECT_TRUE(CheckStartAdapter(start, lora).empty()) << "what was taken fits";
  lora.set_rank(16);
  lora.clear_target_modules();
  lora.add_target_modules("all-linear");
  const auto wrong = CheckStartAdapter(start, lora);
  ASSERT_EQ(wrong.size(), 2u);
  EXPECT_EQ(wrong[0].path, "job.spec.lora.rank");
  EXPECT_EQ(wrong[0].message, "is 16, the adapter to start from has 8; leave it out");
  EXPECT_EQ(wrong[1].path, "job.spec.lora.target_modules");
  v1::LoraSpec all;
  TakeStartAdapter({4, 8, false, {}}, &all);
  EXPECT_THAT(all.target_modules(), testing::ElementsAre("all-linear"));
}

TEST(ResolveSpec, PreferenceMethodsGetTheirDefaults) {
  v1::JobSpec in = Minimal();
  in.mutable_dpo();
  const auto dpo = ResolveSpec(in, {});
  ASSERT_TRUE(dpo.ok()) << dpo.status();
  EXPECT_TRUE(dpo->has_dpo());
  EXPECT_EQ(dpo->optimizer().learning_rate(), 1e-6);
  EXPECT_EQ(dpo->dpo().beta(), 0.1);
  EXPECT_EQ(dpo->dpo().loss_type(0), "sigmoid");
  EXPECT_EQ(dpo->dpo().loss_weights(0), 1);
  EXPECT_EQ(dpo->dpo().f_divergence(), "reverse_kl");
  EXPECT_EQ(dpo->dpo().ld_alpha(), 1);
  EXPECT_EQ(ResolveSpec(*dpo, {})->SerializeAsString(), dpo->SerializeAsString());
  in.mutable_kto()->set_desirable_weight(0);
  const auto kto = ResolveSpec(in, {});
  ASSERT_TRUE(kto.ok()) << kto.status();
  EXPECT_EQ(kto->kto().desirable_weight(), 0);
  EXPECT_EQ(kto->kto().undesirable_weight(), 1);
  EXPECT_EQ(kto->kto().loss_type(), "kto");
}

std::string FirstViolation(const v1::JobSpec& spec) {
  const auto violations = ValidateSpec(spec);
  return violations.empty() ? "" : violations[0].path + ": " + violations[0].message;
}

TEST(ValidateSpec, PreferenceOptionsAreChecked) {
  v1::JobSpec in = Minimal();
  v1::DpoSpec* dpo = in.mutable_dpo();
  EXPECT_EQ(FirstViolation(in), "");
  dpo->add_loss_type("sigmoyd");
  EXPECT_THAT(FirstViolation(in), HasSubstr("did you mean sigmoid?"));
  dpo->set_loss_type(0, "exo_pair");
  EXPECT_THAT(FirstViolation(in), HasSubstr("job.spec.dpo.label_smoothing: must be above 0 with exo_pair"));
  dpo->set_loss_type(0, "sigmoid");
  dpo->set_label_smoothing(0.1);
  EXPECT_THAT(FirstViolation(in), HasSubstr("use robust in place of sigmoid"));
  dpo->set_label_smoothing(0);
  dpo->add_loss_weights(1);
  dpo->add_loss_weights(2);
  EXPECT_EQ(FirstViolation(in), "job.spec.dpo.loss_weights: has 2 numbers for 1 loss types");
  dpo->clear_loss_weights();
  dpo->set_beta(0);
  EXPECT_THAT(FirstViolation(in), HasSubstr("job.spec.dpo.beta"));
  in.mutable_kto()->set_loss_type("bco");
  EXPECT_THAT(FirstViolation(in), HasSubstr("allowed: kto, apo_zero_unpaired"));
}

TEST(ValidateSpec, KeepingTheBestNeedsEvaluations) {
  v1::JobSpec in = Minimal();
  in.mutable_checkpoints()->set_keep_best(true);
  EXPECT_THAT(FirstViolation(in), HasSubstr("set eval_dataset and evaluation.every_steps"));
  in.set_eval_dataset("datasets/e");
  in.mutable_evaluation()->set_every_steps(5);
  EXPECT_EQ(FirstViolation(in), "");
  in.mutable_checkpoints()->set_best_metric("eval_rewards/margins");
  EXPECT_THAT(FirstViolation(in), HasSubstr("checkpoints.best_metric"));
  in.mutable_dpo();
  EXPECT_EQ(FirstViolation(in), "");
}

}  // namespace
}  // namespace finetuned::spec
