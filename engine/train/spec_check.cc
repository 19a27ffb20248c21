#include "engine/train/spec_check.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/grpo/loss_options.h"
#include "engine/lora/adapter.h"
#include "engine/plan/module_pattern.h"
#include "engine/preference/pair_loss.h"
#include "engine/train/schedule.h"

namespace finetuned::train {
namespace {

// Keeps the first problem.
class Checker {
 public:
  void Require(bool ok, const std::string& field, const std::string& problem) {
    if (!ok && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
    }
  }
  void AtLeast(double value, double low, const std::string& field) {
    Require(std::isfinite(value) && value >= low, field,
            absl::StrCat("is ", value, ", must be at least ", low));
  }
  void Share(double value, const std::string& field) {  // [0, 1)
    Require(value >= 0 && value < 1, field, absl::StrCat("is ", value, ", must be in [0, 1)"));
  }
  void OneOf(const std::string& value, const std::vector<std::string>& allowed,
             const std::string& field) {
    Require(std::count(allowed.begin(), allowed.end(), value) > 0, field,
            absl::StrCat("is \"", value, "\", must be one of ", absl::StrJoin(allowed, ", ")));
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

template <typename V>
void CheckPatterns(const std::map<std::string, V>& patterns, const std::string& field, Checker* c) {
  for (const auto& [pattern, value] : patterns) {
    const absl::Status s = plan::CheckModulePattern(pattern);
    c->Require(s.ok(), field, absl::StrCat("\"", pattern, "\" ", s.message()));
    c->Require(value > 0, field, absl::StrCat("\"", pattern, "\" has ", value, ", must be above 0"));
  }
}

void CheckAdapterKind(const job::LoraOptions& o, Checker* c) {
  CheckPatterns(o.rank_pattern, "lora.rank_pattern", c);
  CheckPatterns(o.alpha_pattern, "lora.alpha_pattern", c);
  for (const int64_t layer : o.layers_to_transform) {
    c->AtLeast(static_cast<double>(layer), 0, "lora.layers_to_transform");
  }
  c->OneOf(o.bias, {"none", "all", "lora_only"}, "lora.bias");
  for (const std::string& module : o.modules_to_save) {
    c->OneOf(module, {"embed_tokens", "lm_head"}, "lora.modules_to_save");
  }
}

void CheckOptimizer(const job::OptimizerOptions& o, Checker* c) {
  c->OneOf(o.kind, {"adamw", "adamw_8bit"}, "optimizer.kind");
  c->AtLeast(o.learning_rate, 0, "optimizer.learning_rate");
  c->Share(o.beta1, "optimizer.beta1");
  c->Share(o.beta2, "optimizer.beta2");
  c->Require(std::isfinite(o.epsilon) && o.epsilon > 0, "optimizer.epsilon", "must be above 0");
  c->AtLeast(o.weight_decay, 0, "optimizer.weight_decay");
  c->AtLeast(o.max_grad_norm, 0, "optimizer.max_grad_norm");
  c->OneOf(o.scheduler, SchedulerNames(), "optimizer.scheduler");
  c->AtLeast(static_cast<double>(o.warmup_steps), 0, "optimizer.warmup_steps");
  c->Require(o.warmup_ratio >= 0 && o.warmup_ratio <= 1, "optimizer.warmup_ratio",
             "must be in [0, 1]");
  c->Require(o.min_lr_ratio >= 0 && o.min_lr_ratio <= 1, "optimizer.min_lr_ratio",
             "must be in [0, 1]");
  c->AtLeast(o.num_cycles, 0, "optimizer.num_cycles");
  c->AtLeast(static_cast<double>(o.decay_steps), 0, "optimizer.decay_steps");
  c->Require(o.scheduler != "warmup_stable_decay" || o.decay_steps > 0, "optimizer.decay_steps",
             "is required by the scheduler warmup_stable_decay");
}

void CheckSchedule(const job::ScheduleOptions& s, Checker* c) {
  c->AtLeast(static_cast<double>(s.max_steps), 0, "schedule.max_steps");
  c->Require(s.max_steps > 0 || (std::isfinite(s.epochs) && s.epochs > 0), "schedule.epochs",
             absl::StrCat("is ", s.epochs, ", must be above 0 when max_steps is not set"));
  c->AtLeast(static_cast<double>(s.micro_batch_size), 1, "schedule.micro_batch_size");
  c->AtLeast(static_cast<double>(s.gradient_accumulation_steps), 1,
             "schedule.gradient_accumulation_steps");
  c->AtLeast(static_cast<double>(s.max_seq_length), 2, "schedule.max_seq_length");
}

void CheckSft(const job::SftOptions& o, Checker* c) {
  c->OneOf(o.loss_on, {"auto", "all", "completion", "assistant"}, "sft.loss_on");
  c->OneOf(o.truncation, {"keep_start", "keep_end"}, "sft.truncation");
  c->Share(o.label_smoothing, "sft.label_smoothing");
}

void CheckDpo(const job::DpoOptions& o, Checker* c) {
  c->Require(std::isfinite(o.beta) && o.beta > 0, "dpo.beta", "must be above 0");
  c->Require(!o.loss_types.empty(), "dpo.loss_type", "is empty");
  bool smoothed = false, exo = false, no_pairs = false, rewards = false;
  for (const std::string& type : o.loss_types) {
    c->OneOf(type, preference::PairLossNames(), "dpo.loss_type");
    smoothed |= type == "robust" || type == "exo_pair" || type == "aot" || type == "aot_unpaired";
    exo |= type == "exo_pair";
    no_pairs |= type == "aot" || type == "aot_unpaired" || type == "sft";
    rewards |= type == "aot" || type == "aot_unpaired" || type == "nca_pair" || type == "bco_pair" || type == "sppo_hard" ||
               type == "apo_zero" || type == "apo_down";
  }
  c->Require(o.loss_weights.empty() || o.loss_weights.size() == o.loss_types.size(),
             "dpo.loss_weights",
             absl::StrCat("has ", o.loss_weights.size(), " numbers for ", o.loss_types.size(),
                          " loss types"));
  for (double weight : o.loss_weights) {
    c->Require(std::isfinite(weight), "dpo.loss_weights", "must be finite numbers");
  }
  c->Require(o.label_smoothing >= 0 && o.label_smoothing < 0.5, "dpo.label_smoothing",
             "must be in [0, 0.5)");
  c->Require(!exo || o.label_smoothing > 0, "dpo.label_smoothing",
             "must be above 0 with exo_pair, whose loss is infinite at 0; try 0.001");
  c->Require(smoothed || o.label_smoothing == 0, "dpo.label_smoothing",
             "is used by robust, exo_pair, aot and aot_unpaired only; use robust in place of "
             "sigmoid, or leave it 0");
  c->Require(!o.use_weighting || !no_pairs, "dpo.use_weighting",
             "weights pairs, which the losses aot, aot_unpaired and sft do not have; choose one of the two");
  c->OneOf(o.f_divergence, preference::FDivergenceNames(), "dpo.f_divergence");
  c->Require(o.f_divergence == "reverse_kl" || !rewards, "dpo.f_divergence",
             "must be reverse_kl with losses other than sigmoid, sigmoid_norm, hinge, ipo, exo_pair, robust, "
             "discopop and sft: they look at the answers one by one");
  c->Require(std::isfinite(o.f_alpha_divergence_coef), "dpo.f_alpha_divergence_coef",
             "must be a number");
  c->Require(std::isfinite(o.discopop_tau) && o.discopop_tau > 0, "dpo.discopop_tau",
             "must be above 0");
  c->Require(o.ld_alpha >= 0 && o.ld_alpha <= 1, "dpo.ld_alpha", "must be in [0, 1]");
}

void CheckKto(const job::KtoOptions& o, Checker* c) {
  c->Require(std::isfinite(o.beta) && o.beta > 0, "kto.beta", "must be above 0");
  c->AtLeast(o.desirable_weight, 0, "kto.desirable_weight");
  c->AtLeast(o.undesirable_weight, 0, "kto.undesirable_weight");
  c->OneOf(o.loss_type, {"kto", "apo_zero_unpaired"}, "kto.loss_type");
}

void CheckGrpo(const job::TrainSpec& spec, Checker* c) {
  const job::GrpoOptions& g = spec.grpo;
  c->AtLeast(static_cast<double>(g.group_size), 2, "grpo.group_size");
  c->AtLeast(static_cast<double>(g.updates_per_rollout), 1, "grpo.updates_per_rollout");
  c->AtLeast(static_cast<double>(g.prompts_per_rollout), 0, "grpo.prompts_per_rollout");
  c->OneOf(g.loss_type, grpo::LossTypeNames(), "grpo.loss_type");
  c->OneOf(g.advantage_scale, {"group", "batch", "none"}, "grpo.advantage_scale");
  c->OneOf(g.importance_sampling, {"token", "sequence"}, "grpo.importance_sampling");
  c->OneOf(g.reward_aggregation, {"sum_then_normalize", "normalize_then_sum"}, "grpo.reward_aggregation");
  c->AtLeast(g.beta, 0, "grpo.beta");
  c->AtLeast(g.clip_low, 0, "grpo.clip_low");
  c->AtLeast(g.clip_high, 0, "grpo.clip_high");
  c->Require(g.temperature > 0, "grpo.temperature", "must be above 0");
  c->Require(g.top_entropy_quantile > 0 && g.top_entropy_quantile <= 1, "grpo.top_entropy_quantile",
             "must be in (0, 1]");
  c->Require(std::isfinite(g.entropy_coef), "grpo.entropy_coef", "must be a number");
  c->AtLeast(static_cast<double>(g.max_completion_tokens), 1, "grpo.max_completion_tokens");
  c->Require(g.max_completion_tokens < spec.schedule.max_seq_length, "grpo.max_completion_tokens",
             "leave no room for a prompt within schedule.max_seq_length");
  c->Require(!g.builtin_rewards.empty() || !g.remote_rewards.empty(), "grpo.builtin_rewards",
             "at least one reward is required");
  c->Require(g.remote_weights.size() == g.remote_rewards.size(), "grpo.remote_reward.weights",
             "needs one weight per reward");
}

nlohmann::json GrpoIdentity(const job::GrpoOptions& g) {
  nlohmann::json rewards = nlohmann::json::array();
  for (const reward::Choice& r : g.builtin_rewards) rewards.push_back({r.name, r.weight, r.args});
  return {{"grpo.group_size", g.group_size},
          {"grpo.prompts_per_rollout", g.prompts_per_rollout},
          {"grpo.updates_per_rollout", g.updates_per_rollout},
          {"grpo.loss_type", g.loss_type},
          {"grpo.beta", g.beta},
          {"grpo.clip_low", g.clip_low},
          {"grpo.clip_high", g.clip_high},
          {"grpo.delta", g.delta ? nlohmann::json(*g.delta) : nlohmann::json()},
          {"grpo.advantage_scale", g.advantage_scale},
          {"grpo.importance_sampling", g.importance_sampling},
          {"grpo.reward_aggregation", g.reward_aggregation},
          {"grpo.top_entropy_quantile", g.top_entropy_quantile},
          {"grpo.entropy_coef", g.entropy_coef},
          {"grpo.use_bias_correction_kl", g.use_bias_correction_kl},
          {"grpo.mask_truncated", g.mask_truncated},
          {"grpo.max_completion_tokens", g.max_completion_tokens},
          {"grpo.temperature", g.temperature},
          {"grpo.top_p", g.top_p},
          {"grpo.top_k", g.top_k},
          {"grpo.min_p", g.min_p},
          {"grpo.repetition_penalty", g.repetition_penalty},
          {"grpo.stop", g.stop},
          {"grpo.builtin_rewards", std::move(rewards)},
          {"grpo.remote_reward.reward_names", g.remote_rewards},
          {"grpo.remote_reward.weights", g.remote_weights},
          {"grpo.chat_template", g.chat_template},
          {"grpo.system_prompt", g.system_prompt}};
}

// The settings of the method that change results.
nlohmann::json MethodIdentity(const job::TrainSpec& s) {
  if (s.method == "dpo") {
    const job::DpoOptions& o = s.dpo;
    return {{"dpo.beta", o.beta},
            {"dpo.loss_type", o.loss_types},
            {"dpo.loss_weights", o.loss_weights},
            {"dpo.label_smoothing", o.label_smoothing},
            {"dpo.f_divergence", o.f_divergence},
            {"dpo.f_alpha_divergence_coef", o.f_alpha_divergence_coef},
            {"dpo.discopop_tau", o.discopop_tau},
            {"dpo.ld_alpha", o.ld_alpha},
            {"dpo.use_weighting", o.use_weighting},
            {"dpo.reference_free", o.reference_free},
            {"dpo.precompute_reference", o.precompute_reference},
            {"dpo.chat_template", o.chat_template}};
  }
  if (s.method == "kto") {
    const job::KtoOptions& o = s.kto;
    return {{"kto.beta", o.beta},
            {"kto.desirable_weight", o.desirable_weight},
            {"kto.undesirable_weight", o.undesirable_weight},
            {"kto.loss_type", o.loss_type},
            {"kto.precompute_reference", o.precompute_reference},
            {"kto.chat_template", o.chat_template}};
  }
  if (s.method == "grpo") return GrpoIdentity(s.grpo);
  return {{"sft.loss_on", s.sft.loss_on},
          {"sft.truncation", s.sft.truncation},
          {"sft.label_smoothing", s.sft.label_smoothing},
          {"sft.chat_template", s.sft.chat_template}};
}

}  // namespace

absl::Status ValidateSpec(const job::TrainSpec& spec) {
  Checker c;
  c.OneOf(spec.method, {"sft", "dpo", "kto", "grpo"}, "method");
  c.Require(!spec.base_model_path.empty(), "base_model", "is required");
  c.Require(!spec.dataset_path.empty(), "dataset", "is required");
  c.Require(!spec.state_dir.empty(), "state_dir", "is required");
  c.AtLeast(static_cast<double>(spec.lora.rank), 1, "lora.rank");
  c.Require(spec.lora.rank <= 1024, "lora.rank", "must be at most 1024");
  c.AtLeast(spec.lora.alpha, 0, "lora.alpha");
  c.Share(spec.lora.dropout, "lora.dropout");
  if (auto targets = lora::ParseTargets(spec.lora.target_modules); !targets.ok()) {
    c.Require(false, "lora.target_modules", std::string(targets.status().message()));
  }
  CheckAdapterKind(spec.lora, &c);
  CheckOptimizer(spec.optimizer, &c);
  CheckSchedule(spec.schedule, &c);
  if (spec.method == "sft") CheckSft(spec.sft, &c);
  if (spec.method == "dpo") CheckDpo(spec.dpo, &c);
  if (spec.method == "kto") CheckKto(spec.kto, &c);
  if (spec.method == "grpo") CheckGrpo(spec, &c);
  c.AtLeast(static_cast<double>(spec.checkpoints.every_steps), 0, "checkpoints.every_steps");
  c.AtLeast(spec.checkpoints.every_seconds, 0, "checkpoints.every");
  c.AtLeast(static_cast<double>(spec.checkpoints.keep_last), 1, "checkpoints.keep_last");
  c.AtLeast(static_cast<double>(spec.evaluation.every_steps), 0, "evaluation.every_steps");
  c.AtLeast(static_cast<double>(spec.evaluation.sample_prompts), 0, "evaluation.sample_prompts");
  c.OneOf(spec.base_quantization, {"nf4", "fp4", "int8", "fp8", "none"}, "quantization.base");
  for (const std::string& pattern : spec.skip_modules) {
    const absl::Status s = plan::CheckModulePattern(pattern);
    c.Require(s.ok(), "quantization.skip_modules", absl::StrCat("\"", pattern, "\" ", s.message()));
  }
  c.OneOf(spec.lm_head_quantization, {"none", "nf4"}, "quantization.lm_head");
  c.OneOf(spec.embed_tokens, {"", "host", "device"}, "quantization.embed_tokens");
  c.OneOf(spec.compute_dtype, {"auto", "bf16", "f32"}, "compute.dtype");
  c.OneOf(spec.device, {"auto", "cpu", "cuda"}, "compute.device");
  c.OneOf(spec.matmul_precision, {"bf16", "fp8", "int8"}, "compute.matmul_precision");
  c.AtLeast(spec.int8_threshold, 0, "quantization.int8_threshold");
  if (!spec.lora.new_tokens.empty()) {
    c.Require(spec.init_adapter_path.empty(), "lora.new_tokens", "must be empty with init_adapter, which brings its own");
    c.Require(spec.lora.modules_to_save == std::vector<std::string>{"embed_tokens", "lm_head"}, "lora.modules_to_save",
              "must be embed_tokens, lm_head with lora.new_tokens");
  }
  c.Require(spec.lora.bias == "none" || spec.optimizer.weight_decay == 0, "optimizer.weight_decay",
            "must be 0 with lora.bias: biases do not decay");
  c.Require(spec.standing_layers <= 0 || !spec.lora.use_dora, "quantization.standing_layers", "must be 0 with lora.use_dora");
  c.Require(spec.int8_threshold == 0 || spec.base_quantization == "int8", "quantization.int8_threshold",
            "needs quantization.base int8");
  const bool four_bit = spec.base_quantization == "nf4" || spec.base_quantization == "fp4";
  c.Require(spec.matmul_precision == "bf16" || !spec.lora.use_dora || spec.lora.dropout == 0, "lora.dropout",
            absl::StrCat("must be 0 with lora.use_dora and compute.matmul_precision ", spec.matmul_precision));
  c.Require(spec.matmul_precision == "bf16" || (four_bit && spec.skip_modules.empty()), "compute.matmul_precision",
            absl::StrCat("is \"", spec.matmul_precision,
                         "\", which needs quantization.base nf4 or fp4 without skip_modules"));
  c.Require(!spec.activation_offload || spec.activation_checkpointing, "compute.activation_offload",
            "needs compute.activation_checkpointing on");
  return c.status();
}

nlohmann::json SpecIdentity(const job::TrainSpec& s) {
  const job::OptimizerOptions& o = s.optimizer;
  nlohmann::json identity = {
      {"method", s.method},
      {"lora.rank", s.lora.rank},
      {"lora.alpha", s.lora.alpha},
      {"lora.dropout", s.lora.dropout},
      {"lora.use_rslora", s.lora.use_rslora},
      {"lora.target_modules", s.lora.target_modules},
      {"optimizer.kind", o.kind},
      {"optimizer.learning_rate", o.learning_rate},
      {"optimizer.beta1", o.beta1},
      {"optimizer.beta2", o.beta2},
      {"optimizer.epsilon", o.epsilon},
      {"optimizer.weight_decay", o.weight_decay},
      {"optimizer.max_grad_norm", o.max_grad_norm},
      {"optimizer.scheduler", o.scheduler},
      {"optimizer.warmup_steps", o.warmup_steps},
      {"optimizer.warmup_ratio", o.warmup_ratio},
      {"optimizer.min_lr_ratio", o.min_lr_ratio},
      {"optimizer.num_cycles", o.num_cycles},
      {"optimizer.decay_steps", o.decay_steps},
      {"schedule.epochs", s.schedule.epochs},
      {"schedule.max_steps", s.schedule.max_steps},
      {"schedule.micro_batch_size", s.schedule.micro_batch_size},
      {"schedule.gradient_accumulation_steps", s.schedule.gradient_accumulation_steps},
      {"schedule.max_seq_length", s.schedule.max_seq_length},
      {"schedule.packing", s.schedule.packing},
      {"schedule.shuffle", s.schedule.shuffle},
      {"quantization.base", s.base_quantization},
      {"compute.dtype", s.compute_dtype},
      {"compute.matmul_precision", s.matmul_precision},
      {"seed", s.seed}};
  // Left out at their defaults: checkpoints of earlier versions do not have them.
  if (!s.double_quant) identity["quantization.double_quant"] = false;
  if (s.int8_threshold > 0) identity["quantization.int8_threshold"] = s.int8_threshold;
  if (!s.skip_modules.empty()) identity["quantization.skip_modules"] = s.skip_modules;
  if (!s.lora.rank_pattern.empty()) identity["lora.rank_pattern"] = s.lora.rank_pattern;
  if (!s.lora.alpha_pattern.empty()) identity["lora.alpha_pattern"] = s.lora.alpha_pattern;
  if (!s.lora.layers_to_transform.empty()) identity["lora.layers_to_transform"] = s.lora.layers_to_transform;
  if (!s.lora.modules_to_save.empty()) identity["lora.modules_to_save"] = s.lora.modules_to_save;
  if (!s.lora.new_tokens.empty()) identity["lora.new_tokens"] = s.lora.new_tokens;
  if (s.lora.bias != "none") identity["lora.bias"] = s.lora.bias;
  if (s.lora.use_dora) identity["lora.use_dora"] = true;
  if (s.lm_head_quantization != "none") identity["quantization.lm_head"] = s.lm_head_quantization;
  identity.update(MethodIdentity(s));
  return identity;
}

}  // namespace finetuned::train
