#include "engine/worker/spec_from_proto.h"

#include "engine/plan/auto_settings.h"

namespace finetuned::worker {
namespace {

void CopyLora(const v1::LoraSpec& from, job::LoraOptions* to) {
  to->rank = from.rank();
  to->alpha = from.alpha();
  to->dropout = from.dropout();
  to->use_rslora = from.use_rslora();
  to->target_modules.assign(from.target_modules().begin(), from.target_modules().end());
  to->rank_pattern = {from.rank_pattern().begin(), from.rank_pattern().end()};
  to->alpha_pattern = {from.alpha_pattern().begin(), from.alpha_pattern().end()};
  to->layers_to_transform.assign(from.layers_to_transform().begin(), from.layers_to_transform().end());
  to->use_dora = from.use_dora();
  to->bias = from.bias();
  to->new_tokens.assign(from.new_tokens().begin(), from.new_tokens().end());
  to->modules_to_save.assign(from.modules_to_save().begin(), from.modules_to_save().end());
}

void CopyOptimizer(const v1::OptimizerSpec& from, job::OptimizerOptions* to) {
  to->kind = from.kind();
  to->learning_rate = from.learning_rate();
  to->beta1 = from.beta1();
  to->beta2 = from.beta2();
  to->epsilon = from.epsilon();
  to->weight_decay = from.weight_decay();
  to->max_grad_norm = from.max_grad_norm();
  to->scheduler = from.scheduler();
  to->warmup_steps = from.warmup_steps();
  to->warmup_ratio = from.warmup_ratio();
  to->min_lr_ratio = from.min_lr_ratio();
  to->num_cycles = from.num_cycles();
  to->decay_steps = from.decay_steps();
}

void CopySchedule(const v1::JobSpec& spec, job::ScheduleOptions* to) {
  const v1::ScheduleSpec& from = spec.schedule();
  to->epochs = from.epochs();
  to->max_steps = from.max_steps();
  to->micro_batch_size = from.micro_batch_size();
  to->gradient_accumulation_steps = from.gradient_accumulation_steps();
  to->max_seq_length = from.max_seq_length();
  to->packing = spec.sft().packing();
  to->shuffle = from.shuffle();
}

void CopyGrpo(const v1::GrpoSpec& from, job::GrpoOptions* to) {
  to->group_size = from.group_size();
  to->prompts_per_rollout = from.prompts_per_rollout();
  to->updates_per_rollout = from.updates_per_rollout();
  to->loss_type = from.loss_type();
  to->beta = from.beta();
  to->clip_low = from.clip_low();
  to->clip_high = from.clip_high();
  if (from.has_delta()) to->delta = from.delta();
  to->advantage_scale = from.advantage_scale();
  to->importance_sampling = from.importance_sampling();
  to->reward_aggregation = from.reward_aggregation();
  to->top_entropy_quantile = from.top_entropy_quantile();
  to->entropy_coef = from.entropy_coef();
  to->use_bias_correction_kl = from.use_bias_correction_kl();
  to->mask_truncated = from.mask_truncated();
  to->max_completion_tokens = from.max_completion_tokens();
  to->temperature = from.temperature();
  to->top_p = from.top_p();
  to->min_p = from.min_p();
  to->top_k = from.top_k();
  to->repetition_penalty = from.repetition_penalty();
  to->stop.assign(from.stop().begin(), from.stop().end());
  for (const v1::BuiltinReward& r : from.builtin_rewards()) {
    to->builtin_rewards.push_back({r.name(), r.weight(), {r.args().begin(), r.args().end()}});
  }
  const v1::RemoteReward& remote = from.remote_reward();
  to->remote_rewards.assign(remote.reward_names().begin(), remote.reward_names().end());
  to->remote_weights.assign(remote.weights().begin(), remote.weights().end());
  to->chat_template = from.chat_template();
  to->system_prompt = from.system_prompt();
  to->samples_per_rollout = from.samples_per_rollout();
}

void CopyDpo(const v1::DpoSpec& from, job::DpoOptions* to) {
  to->beta = from.beta();
  to->loss_types.assign(from.loss_type().begin(), from.loss_type().end());
  to->loss_weights.assign(from.loss_weights().begin(), from.loss_weights().end());
  to->label_smoothing = from.label_smoothing();
  to->f_divergence = from.f_divergence();
  to->f_alpha_divergence_coef = from.f_alpha_divergence_coef();
  to->discopop_tau = from.discopop_tau();
  to->ld_alpha = from.ld_alpha();
  to->use_weighting = from.use_weighting();
  to->reference_free = from.reference_free();
  to->precompute_reference = from.precompute_reference();
  to->chat_template = from.chat_template();
}

void CopyKto(const v1::KtoSpec& from, job::KtoOptions* to) {
  to->beta = from.beta();
  to->desirable_weight = from.desirable_weight();
  to->undesirable_weight = from.undesirable_weight();
  to->loss_type = from.loss_type();
  to->precompute_reference = from.precompute_reference();
  to->chat_template = from.chat_template();
}

// A standalone run leaves "auto" undecided: everything is kept.
void CopyCheckpointing(const std::string& word, job::TrainSpec* to) {
  plan::PlanInput policy;
  if (!plan::ParseCheckpointing(word, &policy)) return;
  to->activation_checkpointing = policy.activation_checkpointing;
  to->keep_all_layers = policy.keep_all_layers;
  to->keep_attention_layers = policy.keep_attention_layers;
  to->activation_piece_rows = policy.piece_rows;
}

}  // namespace

job::TrainSpec ToTrainSpec(const v1::JobSpec& spec, const std::string& job_name,
                           const RunPaths& paths, int cpu_threads, int64_t created_unix_seconds) {
  job::TrainSpec out;
  out.job_name = job_name;
  out.base_model_path = paths.base_model;
  out.base_model_name = spec.base_model();
  out.dataset_path = paths.dataset;
  out.eval_dataset_path = paths.eval_dataset;
  out.state_dir = paths.state_dir;
  out.init_adapter_path = paths.init_adapter;
  out.reference_dir = paths.reference_dir;
  out.created_unix_seconds = created_unix_seconds;
  out.method = spec.has_sft() ? "sft" : spec.has_dpo() ? "dpo" : spec.has_kto() ? "kto" : "grpo";
  CopyLora(spec.lora(), &out.lora);
  CopyOptimizer(spec.optimizer(), &out.optimizer);
  CopySchedule(spec, &out.schedule);
  if (spec.has_dpo()) CopyDpo(spec.dpo(), &out.dpo);
  if (spec.has_kto()) CopyKto(spec.kto(), &out.kto);
  out.sft.loss_on = spec.sft().loss_on();
  out.sft.truncation = spec.sft().truncation();
  out.sft.label_smoothing = spec.sft().label_smoothing();
  out.sft.chat_template = spec.sft().chat_template();
  if (spec.has_grpo()) CopyGrpo(spec.grpo(), &out.grpo);
  out.checkpoints.every_steps = spec.checkpoints().every_steps();
  out.checkpoints.every_seconds = static_cast<double>(spec.checkpoints().every().seconds()) +
                                  1e-9 * spec.checkpoints().every().nanos();
  out.checkpoints.keep_last = spec.checkpoints().keep_last();
  out.checkpoints.keep_best = spec.checkpoints().keep_best();
  out.checkpoints.best_metric = spec.checkpoints().best_metric();
  out.evaluation.every_steps = spec.evaluation().every_steps();
  out.evaluation.before_training = spec.evaluation().before_training();
  out.evaluation.early_stopping_patience = spec.evaluation().early_stopping_patience();
  out.evaluation.sample_prompts = spec.evaluation().sample_prompts();
  out.evaluation.early_stopping_min_delta = spec.evaluation().early_stopping_min_delta();
  const v1::QuantizationSpec& quantization = spec.quantization();
  out.base_quantization = quantization.base();
  out.double_quant = !quantization.has_double_quant() || quantization.double_quant();
  out.int8_threshold = quantization.int8_threshold();
  out.skip_modules.assign(quantization.skip_modules().begin(), quantization.skip_modules().end());
  if (!quantization.lm_head().empty()) out.lm_head_quantization = quantization.lm_head();
  out.embed_tokens = quantization.embed_tokens();
  if (quantization.has_standing_layers()) out.standing_layers = quantization.standing_layers();
  out.compute_dtype = spec.compute().dtype();
  out.device = spec.compute().device();
  out.matmul_precision = spec.compute().matmul_precision();
  CopyCheckpointing(spec.compute().activation_checkpointing(), &out);
  out.activation_offload = out.activation_checkpointing && spec.compute().activation_offload() == "on";
  out.deterministic = spec.deterministic();
  out.seed = spec.seed();
  out.cpu_threads = cpu_threads;
  return out;
}

}  // namespace finetuned::worker
