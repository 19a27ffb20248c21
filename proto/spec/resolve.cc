#include "proto/spec/resolve.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/grpo.h"
#include "proto/spec/tools.h"

namespace finetuned::spec {
namespace {

void ResolveOptimizer(bool sft, v1::OptimizerSpec* o) {
  if (o->kind().empty()) o->set_kind("adamw_8bit");
  if (o->scheduler().empty()) o->set_scheduler("linear");
  if (!o->has_learning_rate()) o->set_learning_rate(sft ? 2e-4 : 1e-6);
  if (!o->has_max_grad_norm()) o->set_max_grad_norm(1.0);
  if (!o->has_beta1()) o->set_beta1(0.9);
  if (!o->has_beta2()) o->set_beta2(0.999);
  if (!o->has_epsilon()) o->set_epsilon(1e-8);
}

void ResolveLora(v1::LoraSpec* lora) {
  if (lora->rank() == 0) lora->set_rank(16);
  if (!lora->has_alpha()) lora->set_alpha(2.0 * lora->rank());
  if (lora->target_modules_size() == 0) lora->add_target_modules("all-linear");
  if (lora->bias().empty()) lora->set_bias("none");
  if (lora->new_tokens_size() > 0) {
    lora->clear_modules_to_save();
    lora->add_modules_to_save("embed_tokens");
    lora->add_modules_to_save("lm_head");
  }
}

absl::Status ResolveSchedule(const ResolveContext& context, v1::ScheduleSpec* s) {
  if (s->length_case() == v1::ScheduleSpec::LENGTH_NOT_SET) s->set_epochs(3);
  if (s->micro_batch_size() == 0) s->set_micro_batch_size(context.has_gpu ? 4 : 2);
  if (s->gradient_accumulation_steps() == 0) s->set_gradient_accumulation_steps(1);
  const int64_t limit = context.model_max_length;
  if (s->max_seq_length() == 0) {
    s->set_max_seq_length(static_cast<int32_t>(limit > 0 ? std::min<int64_t>(1024, limit) : 1024));
  } else if (limit > 0 && s->max_seq_length() > limit) {
    return absl::InvalidArgumentError(absl::StrCat("job.spec.schedule.max_seq_length: ", s->max_seq_length(),
                                                   " is above the model's limit of ", limit, " positions"));
  }
  if (!s->has_shuffle()) s->set_shuffle(true);
  return absl::OkStatus();
}

void ResolveDpo(v1::DpoSpec* dpo) {
  if (!dpo->has_beta()) dpo->set_beta(0.1);
  if (dpo->loss_type_size() == 0) dpo->add_loss_type("sigmoid");
  if (dpo->loss_weights_size() == 0) {
    for (int i = 0; i < dpo->loss_type_size(); ++i) dpo->add_loss_weights(1);
  }
  if (dpo->f_divergence().empty()) dpo->set_f_divergence("reverse_kl");
  if (!dpo->has_f_alpha_divergence_coef()) dpo->set_f_alpha_divergence_coef(1);
  if (!dpo->has_discopop_tau()) dpo->set_discopop_tau(0.05);
  if (!dpo->has_ld_alpha()) dpo->set_ld_alpha(1);
}

void ResolveKto(v1::KtoSpec* kto) {
  if (!kto->has_beta()) kto->set_beta(0.1);
  if (!kto->has_desirable_weight()) kto->set_desirable_weight(1);
  if (!kto->has_undesirable_weight()) kto->set_undesirable_weight(1);
  if (kto->loss_type().empty()) kto->set_loss_type("kto");
}

void ResolveSft(v1::SftSpec* sft) {
  if (sft->loss_on().empty()) sft->set_loss_on("auto");
  if (sft->truncation().empty()) sft->set_truncation("keep_start");
}

void ResolveMethod(v1::JobSpec* spec) {
  if (IsTool(*spec)) return ResolveTool(spec);
  if (spec->has_dpo()) return ResolveDpo(spec->mutable_dpo());
  if (spec->has_kto()) return ResolveKto(spec->mutable_kto());
  if (!spec->has_grpo()) ResolveSft(spec->mutable_sft());
}

void ResolveRest(const ResolveContext& context, v1::JobSpec* spec) {
  ResolveMethod(spec);
  if (spec->checkpoints().keep_last() == 0) spec->mutable_checkpoints()->set_keep_last(2);
  if (spec->checkpoints().best_metric().empty()) {
    spec->mutable_checkpoints()->set_best_metric(spec->has_grpo() ? "eval_reward" : "eval_loss");
  }
  if (spec->quantization().base().empty()) spec->mutable_quantization()->set_base("nf4");
  if (!spec->quantization().has_double_quant()) spec->mutable_quantization()->set_double_quant(true);
  v1::ComputeSpec* compute = spec->mutable_compute();
  if (compute->device().empty() || compute->device() == "auto") {
    compute->set_device(context.has_gpu ? "cuda" : "cpu");
  }
  if (compute->dtype().empty() || compute->dtype() == "auto") {
    compute->set_dtype(compute->device() == "cuda" ? "bf16" : "f32");
  }
  if (compute->activation_checkpointing().empty()) compute->set_activation_checkpointing("auto");
  if (compute->matmul_precision().empty()) compute->set_matmul_precision("bf16");
  if (compute->activation_offload().empty()) compute->set_activation_offload("auto");
  if (!spec->has_seed()) spec->set_seed(42);
}

}  // namespace

absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec, const ResolveContext& context) {
  v1::JobSpec out = spec;
  ResolveLora(out.mutable_lora());
  ResolveOptimizer(!out.has_dpo() && !out.has_kto() && !out.has_grpo(), out.mutable_optimizer());
  if (out.has_grpo()) ResolveGrpo(&out);
  const absl::Status schedule = ResolveSchedule(context, out.mutable_schedule());
  if (!schedule.ok()) return schedule;
  if (out.has_grpo()) {
    if (absl::Status s = CheckCompletionFits(out); !s.ok()) return s;
  }
  ResolveRest(context, &out);
  return out;
}

}  // namespace finetuned::spec
