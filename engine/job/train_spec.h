#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/plan/memory_plan.h"
#include "engine/reward/choice.h"

// Plain description of one training run, and what the run says while it goes. Free of LibTorch and of
// protobuf: the seam between the worker's RPC half and the engine.
namespace finetuned::job {

struct LoraOptions {
  int64_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;
  bool use_rslora = false;
  // q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, or "all-linear".
  std::vector<std::string> target_modules = {"all-linear"};
  // By patterns of module names (plan/module_pattern.h).
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<int64_t> layers_to_transform;  // empty: all
  bool use_dora = false;
  std::vector<std::string> modules_to_save;  // "embed_tokens", "lm_head"
  std::string bias = "none";                 // "none" | "all" | "lora_only"
  std::vector<std::string> new_tokens;       // modules_to_save has embedding and head then
};

struct OptimizerOptions {
  std::string kind = "adamw_8bit";  // "adamw" | "adamw_8bit"
  double learning_rate = 2e-4;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;       // 0: no clipping
  std::string scheduler = "linear"; // names of methods.md 3.0
  int64_t warmup_steps = 0;         // wins over warmup_ratio when > 0
  double warmup_ratio = 0.0;
  double min_lr_ratio = 0.0;        // cosine_with_min_lr
  double num_cycles = 0.0;          // 0: the scheduler's own default
  int64_t decay_steps = 0;          // warmup_stable_decay
};

struct ScheduleOptions {
  double epochs = 3.0;              // used when max_steps is 0
  int64_t max_steps = 0;
  int64_t micro_batch_size = 1;
  int64_t gradient_accumulation_steps = 1;
  int64_t max_seq_length = 1024;
  bool packing = false;             // best-fit packing into max_seq_length
  bool shuffle = true;
};

struct SftOptions {
  std::string loss_on = "auto";     // auto | all | completion | assistant
  std::string truncation = "keep_start";
  double label_smoothing = 0.0;
  std::string chat_template;        // overrides the model's when not empty
};

struct DpoOptions {
  double beta = 0.1;
  std::vector<std::string> loss_types = {"sigmoid"};  // names of preference::DpoLossNames()
  std::vector<double> loss_weights;       // one per loss type; empty: all 1
  double label_smoothing = 0.0;
  std::string f_divergence = "reverse_kl";  // | forward_kl | js_divergence | alpha_divergence
  double f_alpha_divergence_coef = 1.0;
  double discopop_tau = 0.05;
  double ld_alpha = 1.0;                  // weight of tokens beyond the shorter answer's length
  bool use_weighting = false;
  bool reference_free = false;            // log probabilities of the reference are 0
  bool precompute_reference = false;      // once, before training; kept in reference_dir
  std::string chat_template;              // overrides the model's when not empty
};

struct KtoOptions {
  double beta = 0.1;
  double desirable_weight = 1.0, undesirable_weight = 1.0;
  std::string loss_type = "kto";          // | apo_zero_unpaired
  bool precompute_reference = false;      // once, before training; kept in reference_dir
  std::string chat_template;              // overrides the model's when not empty
};

struct GrpoOptions {
  int64_t group_size = 8;                 // completions per prompt
  int64_t prompts_per_rollout = 0;        // 0: as many as one optimizer step takes
  int64_t updates_per_rollout = 1;
  std::string loss_type = "dapo";         // names of grpo::LossTypeNames()
  double beta = 0.0;                      // weight of the KL to the base
  double clip_low = 0.2, clip_high = 0.2;
  std::optional<double> delta;            // upper bound of the ratio; unset: none
  std::string advantage_scale = "group";  // | batch | none
  std::string importance_sampling = "token";               // | sequence
  std::string reward_aggregation = "sum_then_normalize";   // | normalize_then_sum
  double top_entropy_quantile = 1.0;
  double entropy_coef = 0.0;              // weight of the mean entropy, a bonus
  bool use_bias_correction_kl = true;     // KL term times the ratio: the gradient of the reverse KL
  bool mask_truncated = false;
  int64_t max_completion_tokens = 512;
  double temperature = 1.0, top_p = 1.0, min_p = 0.0, repetition_penalty = 1.0;
  int64_t top_k = 0;                      // 0: all
  std::vector<std::string> stop;          // texts that end a completion
  std::vector<reward::Choice> builtin_rewards;
  std::vector<std::string> remote_rewards;
  std::vector<double> remote_weights;     // one per remote reward
  std::string chat_template;              // overrides the model's when not empty
  std::string system_prompt;
  int64_t samples_per_rollout = 4;        // completions reported
};

struct CheckpointOptions {
  int64_t every_steps = 0;          // 0: only at the end and on request
  double every_seconds = 0;         // also when the last one is older; 0: off
  int64_t keep_last = 2;
  bool keep_best = false;           // also the best by best_metric, whose adapter is exported
  std::string best_metric = "eval_loss";
};

struct EvalOptions {
  int64_t every_steps = 0;          // 0: at the end only (when there is an evaluation set)
  bool before_training = false;     // also once before step 1
  int64_t early_stopping_patience = 0;      // evaluations without a better best_metric; 0: off
  double early_stopping_min_delta = 0.0;    // what counts as better
  int64_t sample_prompts = 0;       // held-out prompts answered at each evaluation
};

struct TrainSpec {
  std::string job_name;             // for logs and the adapter's README
  std::string base_model_path;      // .gguf or Hugging Face folder
  std::string base_model_name;      // what adapter_config.json says
  std::string init_adapter_path;    // PEFT folder to start from, and the reference; empty: a new adapter
  std::string dataset_path;
  std::string eval_dataset_path;    // empty: no evaluation
  std::string state_dir;            // checkpoints/, adapter/, events: owned by this run (flock)
  std::string reference_dir;        // log probabilities of references, which runs may share; empty: state_dir/reference
  std::string method = "sft";
  LoraOptions lora;
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  SftOptions sft;
  DpoOptions dpo;
  KtoOptions kto;
  GrpoOptions grpo;
  CheckpointOptions checkpoints;
  EvalOptions evaluation;
  std::string base_quantization = "nf4";  // "nf4" | "fp4" | "int8" | "fp8" | "none" (compute dtype)
  bool double_quant = true;               // of "nf4" and "fp4": scales in 8 bits
  double int8_threshold = 0;              // of "int8": above 0, inputs in INT8 but for columns with such magnitudes
  std::vector<std::string> skip_modules;  // patterns of linears in the compute dtype
  std::string lm_head_quantization = "none";  // of an untied head: "nf4" | "none"
  std::string embed_tokens;               // of an untied head, on a GPU: "host" (the default) | "device"
  int64_t standing_layers = -1;           // layers whose weights stay dequantized; -1: see plan/standing_weights.h
  std::string compute_dtype = "auto";     // auto: bf16 on CUDA, f32 on the CPU | "bf16" | "f32"
  std::string device = "auto";            // auto | cpu | cuda
  std::string matmul_precision = "bf16";  // of frozen products: "bf16" (the compute type) | "fp8" | "int8"
  bool activation_checkpointing = false;
  // With it, as plan::PlanInput: layers that keep everything, those that keep attention's part, and rows at a time.
  int64_t keep_all_layers = 0, keep_attention_layers = 0, activation_piece_rows = 0;
  bool activation_offload = false;        // with it: inputs of layers wait in host memory
  int64_t memory_limit_bytes = 0;         // of the device, for this process; 0: none but the device's own
  plan::DeviceConstants device_constants;
  bool deterministic = false;
  uint64_t seed = 42;
  int64_t created_unix_seconds = 0;       // what chat templates take for now
  int cpu_threads = 0;                    // 0: all cores
};

// A completion of a rollout and what it was worth, or an answer to a held-out prompt.
struct SampleOutput {
  int64_t step = 0;
  std::string prompt, completion;
  double reward = 0;                      // weighted sum; NaN: none
  double advantage = 0;
  std::string prompt_id;
  int32_t completion_index = 0;           // within its group
  std::map<std::string, double> rewards;  // by name; NaN: it abstained
  bool truncated = false;
};

// What the run reports. Called on the training thread; implementations must not block.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void OnPhase(const std::string& phase) = 0;  // "loading", "tokenizing", "training", "exporting"
  // Data and step counts, once known (also after a resume: first_step > 0).
  virtual void OnPlan(int64_t first_step, int64_t total_steps,
                      const std::map<std::string, double>& dataset_stats) = 0;
  // After each optimizer step. Keys: loss, grad_norm, learning_rate, entropy, mean_token_accuracy,
  // num_tokens, trained_tokens, tokens_per_second, step_time, memory_allocated_bytes,
  // memory_peak_bytes, memory_device_used_bytes, flops; of dpo and kto also TRL's rewards/..., logps/...,
  // logits/... and kl (docs/preference.md).
  virtual void OnStep(int64_t step, double epoch, const std::map<std::string, double>& values) = 0;
  virtual void OnEval(int64_t step, const std::map<std::string, double>& values) = 0;
  // When it returns older checkpoints are removed.
  virtual void OnCheckpoint(int64_t step, const std::string& directory, int64_t bytes) = 0;
  virtual void OnWarning(const std::string& code, const std::string& text) = 0;
  virtual void OnLog(const std::string& text) = 0;
  virtual void OnSample(const SampleOutput& sample) {}
};

// Wishes of whoever runs the trainer; looked at between steps.
struct RunControl {
  std::atomic<bool> checkpoint{false};   // write one and go on
  std::atomic<bool> leave{false};        // checkpoint, then return kCheckpointed
  std::atomic<bool> finish{false};       // stop early: checkpoint, evaluate, export, kDone
  std::atomic<bool> cancel{false};       // stop now, no checkpoint: kCancelled
};

// Outcome with the process exit code of the standalone worker.
enum class Outcome { kDone = 0, kBadData = 65, kInternal = 70, kCheckpointed = 75, kBadConfig = 78, kCancelled = 79 };

struct RunResult {
  Outcome outcome = Outcome::kInternal;
  std::string reason;          // stable code: "", "INVALID_DATASET", "OUT_OF_DEVICE_MEMORY", "NON_FINITE_LOSS", ...
  std::string message;         // one sentence for people
  std::string adapter_dir;     // set when kDone
  int64_t last_step = 0;
  std::map<std::string, double> final_metrics;
};

}  // namespace finetuned::job
