#include "engine/worker/spec_from_proto.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "engine/train/spec_check.h"
#include "proto/spec/resolve.h"

namespace finetuned::worker {
namespace {

using ::testing::ElementsAre;

v1::JobSpec Resolved(const std::function<void(v1::JobSpec*)>& edit = [](v1::JobSpec*) {}) {
  v1::JobSpec spec;
  spec.set_base_model("models/m");
  spec.set_dataset("datasets/d");
  spec.mutable_sft();
  edit(&spec);
  return *spec::ResolveSpec(spec, {.model_max_length = 2048, .has_gpu = false});
}

TEST(ToTrainSpec, CarriesTheDefaults) {
  const job::TrainSpec out = ToTrainSpec(Resolved(), "jobs/j", {"/m", "/d", "", "/s"}, 3);
  EXPECT_EQ(out.job_name, "jobs/j");
  EXPECT_EQ(out.base_model_path, "/m");
  EXPECT_EQ(out.base_model_name, "models/m");
  EXPECT_EQ(out.dataset_path, "/d");
  EXPECT_EQ(out.state_dir, "/s");
  EXPECT_EQ(out.cpu_threads, 3);
  EXPECT_EQ(out.method, "sft");
  EXPECT_EQ(out.lora.rank, 16);
  EXPECT_EQ(out.lora.alpha, 32);
  EXPECT_THAT(out.lora.target_modules, ElementsAre("all-linear"));
  EXPECT_EQ(out.optimizer.kind, "adamw_8bit");
  EXPECT_EQ(out.optimizer.learning_rate, 2e-4);
  EXPECT_EQ(out.optimizer.max_grad_norm, 1.0);
  EXPECT_EQ(out.schedule.epochs, 3);
  EXPECT_EQ(out.schedule.max_steps, 0);
  EXPECT_EQ(out.schedule.max_seq_length, 1024);
  EXPECT_EQ(out.base_quantization, "nf4");
  EXPECT_EQ(out.compute_dtype, "f32");
  EXPECT_EQ(out.seed, 42u);
}

TEST(ToTrainSpec, OfPreferenceMethodsPassesTheChecksOfTheEngine) {
  const job::TrainSpec dpo = ToTrainSpec(Resolved([](v1::JobSpec* s) {
                                           s->mutable_dpo()->set_beta(0.3);
                                           s->mutable_dpo()->add_loss_type("robust");
                                           s->mutable_dpo()->add_loss_type("sft");
                                           s->mutable_dpo()->set_label_smoothing(0.2);
                                           s->mutable_dpo()->set_ld_alpha(0.5);
                                           s->mutable_dpo()->set_precompute_reference(true);
                                         }),
                                         "jobs/j", {"/m", "/d", "", "/s"}, 1);
  EXPECT_TRUE(train::ValidateSpec(dpo).ok()) << train::ValidateSpec(dpo);
  EXPECT_EQ(dpo.method, "dpo");
  EXPECT_EQ(dpo.optimizer.learning_rate, 1e-6);
  EXPECT_EQ(dpo.dpo.beta, 0.3);
  EXPECT_THAT(dpo.dpo.loss_types, ElementsAre("robust", "sft"));
  EXPECT_THAT(dpo.dpo.loss_weights, ElementsAre(1, 1));
  EXPECT_EQ(dpo.dpo.label_smoothing, 0.2);
  EXPECT_EQ(dpo.dpo.f_divergence, "reverse_kl");
  EXPECT_EQ(dpo.dpo.ld_alpha, 0.5);
  EXPECT_TRUE(dpo.dpo.precompute_reference);
  const job::TrainSpec kto = ToTrainSpec(Resolved([](v1::JobSpec* s) { s->mutable_kto()->set_desirable_weight(0.7); }),
                                         "jobs/j", {"/m", "/d", "", "/s"}, 1);
  EXPECT_TRUE(train::ValidateSpec(kto).ok()) << train::ValidateSpec(kto);
  EXPECT_EQ(kto.method, "kto");
  EXPECT_EQ(kto.kto.desirable_weight, 0.7);
  EXPECT_EQ(kto.kto.undesirable_weight, 1);
  EXPECT_EQ(kto.kto.loss_type, "kto");
}

TEST(ToTrainSpec, CarriesEveryFieldThatIsSet) {
  const v1::JobSpec spec = Resolved([](v1::JobSpec* s) {
    s->mutable_sft()->set_packing(true);
    s->mutable_sft()->set_loss_on("assistant");
    s->mutable_sft()->set_truncation("keep_end");
    s->mutable_sft()->set_label_smoothing(0.1);
    s->mutable_sft()->set_chat_template("t");
    s->mutable_lora()->set_use_rslora(true);
    s->mutable_lora()->set_dropout(0.05);
    s->mutable_optimizer()->set_kind("adamw");
    s->mutable_optimizer()->set_weight_decay(0.01);
    s->mutable_optimizer()->set_scheduler("cosine_with_min_lr");
    s->mutable_optimizer()->set_warmup_steps(7);
    s->mutable_optimizer()->set_min_lr_ratio(0.2);
    s->mutable_schedule()->set_max_steps(11);
    s->mutable_schedule()->set_micro_batch_size(3);
    s->mutable_schedule()->set_gradient_accumulation_steps(5);
    s->mutable_schedule()->set_shuffle(false);
    s->mutable_checkpoints()->set_every_steps(4);
    s->mutable_checkpoints()->set_keep_last(9);
    s->mutable_evaluation()->set_every_steps(6);
    s->mutable_evaluation()->set_before_training(true);
    s->mutable_quantization()->set_base("none");
    s->mutable_quantization()->set_lm_head("nf4");
    s->mutable_quantization()->set_embed_tokens("device");
    s->mutable_compute()->set_activation_checkpointing("on");
    s->set_deterministic(true);
    s->set_seed(0);
  });
  const job::TrainSpec out = ToTrainSpec(spec, "j", {"/m", "/d", "/e", "/s"}, 0);
  EXPECT_TRUE(out.schedule.packing);
  EXPECT_EQ(out.sft.loss_on, "assistant");
  EXPECT_EQ(out.sft.truncation, "keep_end");
  EXPECT_EQ(out.sft.label_smoothing, 0.1);
  EXPECT_EQ(out.sft.chat_template, "t");
  EXPECT_TRUE(out.lora.use_rslora);
  EXPECT_EQ(out.lora.dropout, 0.05);
  EXPECT_EQ(out.optimizer.kind, "adamw");
  EXPECT_EQ(out.optimizer.weight_decay, 0.01);
  EXPECT_EQ(out.optimizer.scheduler, "cosine_with_min_lr");
  EXPECT_EQ(out.optimizer.warmup_steps, 7);
  EXPECT_EQ(out.optimizer.min_lr_ratio, 0.2);
  EXPECT_EQ(out.schedule.max_steps, 11);
  EXPECT_EQ(out.schedule.micro_batch_size, 3);
  EXPECT_EQ(out.schedule.gradient_accumulation_steps, 5);
  EXPECT_FALSE(out.schedule.shuffle);
  EXPECT_EQ(out.checkpoints.every_steps, 4);
  EXPECT_EQ(out.checkpoints.keep_last, 9);
  EXPECT_EQ(out.evaluation.every_steps, 6);
  EXPECT_TRUE(out.evaluation.before_training);
  EXPECT_EQ(out.base_quantization, "none");
  EXPECT_EQ(out.lm_head_quantization, "nf4");
  EXPECT_EQ(out.embed_tokens, "device");
  EXPECT_TRUE(out.activation_checkpointing);
  EXPECT_TRUE(out.deterministic);
  EXPECT_EQ(out.seed, 0u);
  EXPECT_EQ(out.eval_dataset_path, "/e");
}

}  // namespace
}  // namespace finetuned::worker
