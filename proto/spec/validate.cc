#include <cmath>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/spec/checker.h"
#include "proto/spec/grpo.h"
#include "proto/spec/tools.h"

namespace finetuned::spec {
namespace {

const Names kLossOn = {"auto", "all", "completion", "assistant"};
const Names kTruncation = {"keep_start", "keep_end"};
const Names kOptimizers = {"adamw_8bit", "adamw"};
const Names kSchedulers = {"linear",   "cosine",       "cosine_with_restarts", "cosine_with_min_lr",
                           "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
                           "warmup_stable_decay"};
const Names kBase = {"nf4", "fp4", "int8", "fp8", "none"};
const Names kLmHead = {"none", "nf4"};
const Names kEmbedTokens = {"host", "device"};
const Names kDtypes = {"auto", "bf16", "f32"};
const Names kDevices = {"auto", "cuda", "cpu"};
const Names kOnOff = {"auto", "on", "off"};
const Names kPrecisions = {"bf16", "fp8", "int8"};
const Names kPairLosses = {"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
                           "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"};
const Names kFDivergences = {"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"};
const Names kKtoLosses = {"kto", "apo_zero_unpaired"};
const Names kBias = {"none", "all", "lora_only"};

void CheckSft(const v1::SftSpec& sft, Checker& c) {
  c.OneOf("sft.loss_on", sft.loss_on(), kLossOn);
  c.OneOf("sft.truncation", sft.truncation(), kTruncation);
  c.Number("sft.label_smoothing", sft.label_smoothing(), 0, 1, /*below_high=*/true);
  if (sft.chat_template().size() > (1 << 20)) c.Add("sft.chat_template", "is longer than 1 MiB");
}

void CheckDpo(const v1::DpoSpec& dpo, Checker& c) {
  if (dpo.has_beta()) c.Number("dpo.beta", dpo.beta(), 1e-6, 1e6);
  bool smoothed = false, exo = false, no_pairs = false, rewards = false;
  for (int i = 0; i < dpo.loss_type_size(); ++i) {
    const std::string& type = dpo.loss_type(i);
    const std::string field = absl::StrCat("dpo.loss_type[", i, "]");
    if (type.empty()) c.Add(field, "is empty");
    c.OneOf(field, type, kPairLosses);
    exo |= type == "exo_pair";
    const bool sorted = type == "aot" || type == "aot_unpaired";
    no_pairs |= sorted || type == "sft";
    rewards |= sorted || type == "nca_pair" || type == "bco_pair" || type == "sppo_hard" || type == "apo_zero" ||
               type == "apo_down";
    smoothed |= sorted || exo || type == "robust";
  }
  const int types = dpo.loss_type_size() == 0 ? 1 : dpo.loss_type_size();
  if (dpo.loss_weights_size() != 0 && dpo.loss_weights_size() != types) {
    c.Add("dpo.loss_weights", absl::StrCat("has ", dpo.loss_weights_size(), " numbers for ", types, " loss types"));
  }
  for (int i = 0; i < dpo.loss_weights_size(); ++i) {
    c.Number(absl::StrCat("dpo.loss_weights[", i, "]"), dpo.loss_weights(i), -1e6, 1e6);
  }
  c.Number("dpo.label_smoothing", dpo.label_smoothing(), 0, 0.5, /*below_high=*/true);
  if (exo && dpo.label_smoothing() == 0) {
    c.Add("dpo.label_smoothing", "must be above 0 with exo_pair, whose loss is infinite at 0; try 0.001");
  }
  if (!smoothed && dpo.label_smoothing() != 0) {
    c.Add("dpo.label_smoothing",
          "is used by robust, exo_pair, aot and aot_unpaired only; use robust in place of sigmoid, or leave it 0");
  }
  if (dpo.use_weighting() && no_pairs) {
    c.Add("dpo.use_weighting", "weights pairs, which the losses aot, aot_unpaired and sft do not have; choose one of the two");
  }
  c.OneOf("dpo.f_divergence", dpo.f_divergence(), kFDivergences);
  if (rewards && !dpo.f_divergence().empty() && dpo.f_divergence() != "reverse_kl") {
    c.Add("dpo.f_divergence",
          "must be reverse_kl with losses other than sigmoid, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop and "
          "sft: they look at the answers one by one");
  }
  if (dpo.has_f_alpha_divergence_coef()) {
    c.Number("dpo.f_alpha_divergence_coef", dpo.f_alpha_divergence_coef(), -1e3, 1e3);
  }
  if (dpo.has_discopop_tau()) c.Number("dpo.discopop_tau", dpo.discopop_tau(), 1e-6, 1e6);
  if (dpo.has_ld_alpha()) c.Number("dpo.ld_alpha", dpo.ld_alpha(), 0, 1);
  if (dpo.chat_template().size() > (1 << 20)) c.Add("dpo.chat_template", "is longer than 1 MiB");
}

void CheckKto(const v1::KtoSpec& kto, Checker& c) {
  if (kto.has_beta()) c.Number("kto.beta", kto.beta(), 1e-6, 1e6);
  if (kto.has_desirable_weight()) c.Number("kto.desirable_weight", kto.desirable_weight(), 0, 1e6);
  if (kto.has_undesirable_weight()) c.Number("kto.undesirable_weight", kto.undesirable_weight(), 0, 1e6);
  c.OneOf("kto.loss_type", kto.loss_type(), kKtoLosses);
  if (kto.chat_template().size() > (1 << 20)) c.Add("kto.chat_template", "is longer than 1 MiB");
}

// What an evaluation of the method measures.
// Of GRPO, as reward::RewardSet names the rewards: a name that comes again gets a number.
Names EvalRewards(const v1::GrpoSpec& spec) {
  Names names = {"eval_reward"};
  std::map<std::string, int> seen;
  for (const v1::BuiltinReward& reward : spec.builtin_rewards()) {
    const int number = ++seen[reward.name()];
    names.push_back(absl::StrCat("eval_rewards/", reward.name(), number > 1 ? absl::StrCat("_", number) : "", "/mean"));
  }
  for (const std::string& name : spec.remote_reward().reward_names()) {
    names.push_back(absl::StrCat("eval_rewards/", name, "/mean"));
  }
  return names;
}

Names EvalMetrics(const v1::JobSpec& spec) {
  if (spec.has_grpo()) return EvalRewards(spec.grpo());
  Names names = {"eval_loss", "eval_entropy", "eval_mean_token_accuracy"};
  if (spec.has_dpo() || spec.has_kto()) {
    for (const char* name : {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen",
                             "logps/rejected"}) {
      names.push_back(absl::StrCat("eval_", name));
    }
  }
  if (spec.has_dpo()) names.push_back("eval_rewards/accuracies");
  return names;
}

void CheckEvaluation(const v1::JobSpec& spec, Checker& c) {
  const v1::EvalPolicy& e = spec.evaluation();
  c.Integer("evaluation.every_steps", e.every_steps(), 1, 1'000'000'000);
  c.Integer("evaluation.early_stopping_patience", e.early_stopping_patience(), 1, 1'000'000);
  c.Number("evaluation.early_stopping_min_delta", e.early_stopping_min_delta(), 0, 1e9);
  c.OneOf("checkpoints.best_metric", spec.checkpoints().best_metric(), EvalMetrics(spec));
  c.Integer("evaluation.sample_prompts", e.sample_prompts(), 1, 1000);
  if (e.sample_prompts() > 0 && spec.eval_dataset().empty()) {
    c.Add("evaluation.sample_prompts", "needs held-out prompts: set eval_dataset");
  }
  const bool uses_evaluations = spec.checkpoints().keep_best() || e.early_stopping_patience() > 0;
  if (uses_evaluations && (spec.eval_dataset().empty() || e.every_steps() == 0)) {
    c.Add(spec.checkpoints().keep_best() ? "checkpoints.keep_best" : "evaluation.early_stopping_patience",
          "needs evaluations: set eval_dataset and evaluation.every_steps");
  }
}

void CheckLora(const v1::LoraSpec& lora, Checker& c) {
  c.Integer("lora.rank", lora.rank(), 1, 1024);
  if (lora.has_alpha()) c.Number("lora.alpha", lora.alpha(), 1e-6, 1e6);
  c.Number("lora.dropout", lora.dropout(), 0, 1, /*below_high=*/true);
  c.OneOf("lora.bias", lora.bias(), kBias);
  for (const auto& [pattern, rank] : lora.rank_pattern()) {
    if (rank < 1 || rank > 1024) {
      c.Add("lora.rank_pattern", absl::StrCat("\"", pattern, "\" must be 1 to 1024, got ", rank));
    }
  }
  for (const auto& [pattern, alpha] : lora.alpha_pattern()) {
    c.Number(absl::StrCat("lora.alpha_pattern \"", pattern, "\""), alpha, 1e-6, 1e6);
  }
  for (int i = 0; i < lora.modules_to_save_size(); ++i) {
    const std::string field = absl::StrCat("lora.modules_to_save[", i, "]");
    if (lora.modules_to_save(i).empty()) c.Add(field, "is empty");
    c.OneOf(field, lora.modules_to_save(i), {"embed_tokens", "lm_head"});
  }
  for (int i = 0; i < lora.new_tokens_size(); ++i) {
    if (lora.new_tokens(i).empty()) c.Add(absl::StrCat("lora.new_tokens[", i, "]"), "is empty");
  }
  for (int i = 0; i < lora.layers_to_transform_size(); ++i) {
    const int layer = lora.layers_to_transform(i);
    if (layer < 0 || layer > 9999) {
      c.Add(absl::StrCat("lora.layers_to_transform[", i, "]"), absl::StrCat("must be 0 to 9999, got ", layer));
    }
  }
  Names allowed = TargetModules();
  allowed.push_back("all-linear");
  std::set<std::string> seen;
  for (int i = 0; i < lora.target_modules_size(); ++i) {
    const std::string field = absl::StrCat("lora.target_modules[", i, "]");
    if (lora.target_modules(i).empty()) c.Add(field, "is empty");
    c.OneOf(field, lora.target_modules(i), allowed);
    if (!seen.insert(lora.target_modules(i)).second) {
      c.Add(field, absl::StrCat(lora.target_modules(i), " comes twice"));
    }
  }
}

// "keep:A:B" and "keep:A:B:R" beside the words.
void CheckCheckpointing(const std::string& word, Checker& c) {
  const char* kField = "compute.activation_checkpointing";
  if (!absl::StartsWith(word, "keep:")) return c.OneOf(kField, word, kOnOff);
  const std::vector<std::string> parts = absl::StrSplit(word, ':');
  bool good = parts.size() == 3 || parts.size() == 4;
  for (size_t i = 1; i < parts.size(); ++i) {
    int64_t number = 0;
    good = good && absl::SimpleAtoi(parts[i], &number) && number >= 0 && number < (1 << 24) &&
           (i < 3 || (number > 0 && number % 4 == 0));
  }
  if (!good) {
    c.Add(kField, absl::StrCat("must be auto, on, off, keep:A:B or keep:A:B:R with numbers of layers and a multiple of 4 "
                               "of rows, got ", word));
  }
}

void CheckPrecision(const v1::JobSpec& spec, Checker& c) {
  const std::string& precision = spec.compute().matmul_precision();
  c.OneOf("compute.matmul_precision", precision, kPrecisions);
  c.OneOf("compute.activation_offload", spec.compute().activation_offload(), kOnOff);
  if (precision == "fp8" || precision == "int8") {
    const std::string& base = spec.quantization().base();
    if ((!base.empty() && base != "nf4" && base != "fp4") || spec.quantization().skip_modules_size() > 0) {
      c.Add("compute.matmul_precision",
            absl::StrCat(precision, " needs quantization.base nf4 or fp4 without skip_modules"));
    }
    if (spec.compute().device() == "cpu" || spec.compute().dtype() == "f32") {
      c.Add("compute.matmul_precision", absl::StrCat(precision, " needs a GPU and compute.dtype bf16"));
    }
  }
  if ((precision == "fp8" || precision == "int8") && spec.lora().use_dora() && spec.lora().dropout() > 0) {
    c.Add("lora.dropout", absl::StrCat("must be 0 with lora.use_dora and compute.matmul_precision ", precision));
  }
  if (spec.lora().new_tokens_size() > 0 && !spec.init_adapter().empty()) {
    c.Add("lora.new_tokens", "must be empty with init_adapter, which brings its own");
  }
  const bool biases = !spec.lora().bias().empty() && spec.lora().bias() != "none";
  if (biases && spec.optimizer().weight_decay() != 0) {
    c.Add("optimizer.weight_decay", "must be 0 with lora.bias: biases do not decay");
  }
  const int32_t standing = spec.quantization().standing_layers();
  if (standing < 0) c.Add("quantization.standing_layers", absl::StrCat("must be 0 or more, got ", standing));
  if (standing > 0 && spec.lora().use_dora()) c.Add("quantization.standing_layers", "must be 0 with lora.use_dora");
  if (spec.compute().activation_offload() == "on" && spec.compute().activation_checkpointing() == "off") {
    c.Add("compute.activation_offload", "needs compute.activation_checkpointing on");
  }
}

void CheckOptimizer(const v1::OptimizerSpec& o, Checker& c) {
  c.OneOf("optimizer.kind", o.kind(), kOptimizers);
  c.OneOf("optimizer.scheduler", o.scheduler(), kSchedulers);
  if (o.has_learning_rate()) c.Number("optimizer.learning_rate", o.learning_rate(), 0, 1);
  c.Number("optimizer.weight_decay", o.weight_decay(), 0, 1);
  if (o.has_max_grad_norm()) c.Number("optimizer.max_grad_norm", o.max_grad_norm(), 0, 1e9);
  c.Integer("optimizer.warmup_steps", o.warmup_steps(), 1, 1'000'000'000);
  c.Number("optimizer.warmup_ratio", o.warmup_ratio(), 0, 1);
  c.Number("optimizer.min_lr_ratio", o.min_lr_ratio(), 0, 1);
  c.Number("optimizer.num_cycles", o.num_cycles(), 0, 1000);
  c.Integer("optimizer.decay_steps", o.decay_steps(), 1, 1'000'000'000);
  if (o.scheduler() == "warmup_stable_decay" && o.decay_steps() == 0) {
    c.Add("optimizer.decay_steps", "is required by the scheduler warmup_stable_decay");
  }
  if (o.has_beta1()) c.Number("optimizer.beta1", o.beta1(), 0, 1, /*below_high=*/true);
  if (o.has_beta2()) c.Number("optimizer.beta2", o.beta2(), 0, 1, /*below_high=*/true);
  if (o.has_epsilon()) c.Number("optimizer.epsilon", o.epsilon(), 1e-16, 1);
}

void CheckSchedule(const v1::ScheduleSpec& s, Checker& c) {
  if (s.length_case() == v1::ScheduleSpec::kEpochs) {
    if (!(s.epochs() > 0) || s.epochs() > 10000) {
      c.Add("schedule.epochs", absl::StrCat("must be above 0 and at most 10000, got ", s.epochs()));
    }
  } else if (s.length_case() == v1::ScheduleSpec::kMaxSteps) {
    if (s.max_steps() < 1 || s.max_steps() > 1'000'000'000) {
      c.Add("schedule.max_steps", absl::StrCat("must be 1 to 1000000000, got ", s.max_steps()));
    }
  }
  c.Integer("schedule.micro_batch_size", s.micro_batch_size(), 1, 4096);
  c.Integer("schedule.gradient_accumulation_steps", s.gradient_accumulation_steps(), 1, 65536);
  c.Integer("schedule.max_seq_length", s.max_seq_length(), 8, 16'777'216);
}

}  // namespace

const std::vector<std::string>& TargetModules() {
  static const auto* const kModules = new Names{"q_proj",  "k_proj",       "v_proj",    "o_proj",  "gate_proj",
                                                "up_proj", "down_proj",    "qkv_proj", "gate_up_proj"};
  return *kModules;
}

std::vector<Violation> ValidateSpec(const v1::JobSpec& spec) {
  std::vector<Violation> out;
  Checker c(&out);
  c.Required("base_model", spec.base_model(), "models/smollm2");
  if (!IsTool(spec)) c.Required("dataset", spec.dataset(), "datasets/my-rows");
  if (spec.method_case() == v1::JobSpec::METHOD_NOT_SET) {
    c.Add("method", "one of sft, dpo, kto, grpo, export, evaluate is required, e.g. \"sft: {}\"");
  }
  CheckSft(spec.sft(), c);
  CheckDpo(spec.dpo(), c);
  CheckKto(spec.kto(), c);
  if (spec.has_grpo()) CheckGrpo(spec.grpo(), c);
  CheckTool(spec, c);
  CheckLora(spec.lora(), c);
  CheckOptimizer(spec.optimizer(), c);
  CheckSchedule(spec.schedule(), c);
  c.Integer("checkpoints.every_steps", spec.checkpoints().every_steps(), 1, 1'000'000'000);
  if (spec.checkpoints().has_every() && spec.checkpoints().every().seconds() < 1) {
    c.Add("checkpoints.every", "must be at least 1s");
  }
  c.Integer("checkpoints.keep_last", spec.checkpoints().keep_last(), 1, 1000);
  CheckEvaluation(spec, c);
  c.OneOf("quantization.base", spec.quantization().base(), kBase);
  c.Number("quantization.int8_threshold", spec.quantization().int8_threshold(), 0, 1e6);
  if (spec.quantization().int8_threshold() > 0 && spec.quantization().base() != "int8") {
    c.Add("quantization.int8_threshold", "needs quantization.base int8");
  }
  c.OneOf("quantization.lm_head", spec.quantization().lm_head(), kLmHead);
  c.OneOf("quantization.embed_tokens", spec.quantization().embed_tokens(), kEmbedTokens);
  c.OneOf("compute.dtype", spec.compute().dtype(), kDtypes);
  c.OneOf("compute.device", spec.compute().device(), kDevices);
  CheckCheckpointing(spec.compute().activation_checkpointing(), c);
  CheckPrecision(spec, c);
  return out;
}

}  // namespace finetuned::spec
