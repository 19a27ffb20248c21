#include "engine/train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/job/failpoint.h"
#include "engine/model/batch.h"
#include "engine/plan/cost.h"
#include "engine/plan/rollout.h"
#include "engine/train/device.h"
#include "engine/train/files.h"
#include "engine/train/grpo_method.h"
#include "engine/train/non_finite.h"
#include "engine/train/schedule.h"
#include "kernels/finite.h"

namespace finetuned::train {
namespace {

constexpr int64_t kSkippedStepsLimit = 5;
constexpr int64_t kWishes = 4;  // of RunControl

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::map<std::string, double> StatsMap(const data::DatasetStats& s, int64_t micro_batches) {
  auto number = [](int64_t n) { return static_cast<double>(n); };
  return {{"rows", number(s.rows)},
          {"tokens", number(s.tokens)},
          {"trained_tokens", number(s.trained_tokens)},
          {"max_tokens", number(s.max_tokens)},
          {"p50_tokens", number(s.p50_tokens)},
          {"p95_tokens", number(s.p95_tokens)},
          {"truncated_rows", number(s.truncated_rows)},
          {"dropped_rows", number(s.dropped_rows)},
          {"duplicate_rows", number(s.duplicate_rows)},
          {"micro_batches", number(micro_batches)}};
}

// GRPO generates at evaluations anyway.
bool SamplesAtEvaluations(const job::TrainSpec& spec) {
  return spec.evaluation.sample_prompts > 0 && !spec.eval_dataset_path.empty() && spec.method != "grpo";
}

}  // namespace

lora::Options LoraOptionsOf(const job::TrainSpec& spec) {
  return {.rank = spec.lora.rank,
          .alpha = spec.lora.alpha,
          .dropout = spec.lora.dropout,
          .use_rslora = spec.lora.use_rslora,
          .targets = *lora::ParseTargets(spec.lora.target_modules),
          .rank_pattern = spec.lora.rank_pattern,
          .alpha_pattern = spec.lora.alpha_pattern,
          .layers = spec.lora.layers_to_transform,
          .use_dora = spec.lora.use_dora,
          .modules_to_save = spec.lora.modules_to_save,
          .biases = plan::ParseBiases(spec.lora.bias)};
}

bool HasFrozenAdapter(const job::TrainSpec& spec) {
  if (spec.init_adapter_path.empty()) return false;
  return spec.method == "kto" || (spec.method == "dpo" && !spec.dpo.reference_free) ||
         (spec.method == "grpo" && spec.grpo.beta != 0);
}

plan::PlanInput PlanInputOf(const job::TrainSpec& spec, const model::BaseModel& base) {
  plan::PlanInput p = model::PlanInputOf(base);
  p.method = plan::ParseMethod(spec.method);
  p.lora_rank = spec.lora.rank;
  p.lora_dropout = spec.lora.dropout > 0;
  p.target_modules = spec.lora.target_modules;
  p.rank_pattern = spec.lora.rank_pattern;
  p.lora_layers = spec.lora.layers_to_transform;
  p.mixed_scaling = !spec.lora.rank_pattern.empty() || !spec.lora.alpha_pattern.empty();
  p.use_dora = spec.lora.use_dora;
  p.biases = plan::ParseBiases(spec.lora.bias);
  const auto& whole = spec.lora.modules_to_save;
  p.train_embed_tokens = std::count(whole.begin(), whole.end(), "embed_tokens") > 0;
  p.train_lm_head = std::count(whole.begin(), whole.end(), "lm_head") > 0;
  p.optimizer = spec.optimizer.kind == "adamw" ? plan::Optimizer::kAdamW : plan::Optimizer::kAdamW8bit;
  p.micro_batch_size = spec.schedule.micro_batch_size;
  p.max_seq_length = spec.schedule.max_seq_length;
  p.activation_checkpointing = spec.activation_checkpointing;
  p.keep_all_layers = spec.keep_all_layers;
  p.keep_attention_layers = spec.keep_attention_layers;
  p.piece_rows = spec.activation_piece_rows;
  p.standing_layers = spec.standing_layers;
  p.deterministic = spec.deterministic;
  p.device = spec.device_constants;
  p.device.cudnn_attention = HasCudnnAttention(base.options.device);
  if (spec.method == "grpo") {
    p.rollout = PlannedRollout(spec);
  } else if (SamplesAtEvaluations(spec)) {
    p.rollout = plan::EvalSamples(spec.evaluation.sample_prompts, spec.schedule.max_seq_length);
  }
  p.frozen_adapter = HasFrozenAdapter(spec);
  p.activation_offload = spec.activation_offload;
  return p;
}

Trainer::Trainer(TrainerInputs inputs)
    : in_(std::move(inputs)),
      spec_(*in_.spec),
      device_(in_.base->options.device),
      adapter_(in_.base->config, LoraOptionsOf(spec_), device_, in_.base->options.dtype),
      optimizer_(spec_.optimizer, &adapter_),
      memory_(in_.memory != nullptr ? *in_.memory : own_memory_),
      gradient_sum_(in_.world, &adapter_),
      decoder_(std::in_place, *in_.base, adapter_, DecoderOptions(), in_.reference),
      method_(MakeMethod(InputsOfMethod())),
      description_{spec_.base_model_name.empty() ? spec_.base_model_path : spec_.base_model_name,
                   spec_.job_name, in_.extended_tokenizer},
      plan_input_(PlanInputOf(spec_, *in_.base)),
      plan_(in_.train->rows, BatchOptions(spec_), 0),
      total_steps_(TotalStepsOfRun()) {
  adapter_.Initialize(spec_.seed);
  decoder_->TakeFromBase();
  if (SamplesAtEvaluations(spec_)) sampler_.emplace(InputsOfMethod());
}

Trainer::~Trainer() {
  if (cap_ > 0) CapMemory(device_, 0);
}

absl::StatusOr<job::RunResult> Trainer::Run(const std::optional<FoundCheckpoint>& from) {
  if (from.has_value()) {
    if (absl::Status s = LoadCheckpoint(from->directory, &adapter_, &optimizer_); !s.ok()) return s;
    FT_FAILPOINT("trainer.resumed");
    state_ = from->state;
    checkpointed_step_ = state_.step;
    plan_ = data::BatchPlan(in_.train->rows, BatchOptions(spec_), state_.epoch);
    in_.observer->OnLog(absl::StrCat("resumed from ", from->directory));
  }
  in_.observer->OnPlan(state_.step, total_steps_,
                       StatsMap(in_.train->stats, plan_.micro_batches()));
  if (absl::Status s = method_->Prepare(); !s.ok()) return s;
  in_.observer->OnPhase("training");
  if (!ProbeLargestBatch()) {
    if (absl::Status s = LeaveForMemory(); !s.ok()) return s;
    return result_;
  }
  if (spec_.evaluation.before_training && state_.step == 0) {
    if (absl::Status s = Evaluate(); !s.ok()) return s;
  }
  if (absl::Status s = Loop(); !s.ok()) return s;

  result_.last_step = state_.step;
  result_.final_metrics = last_values_;
  if (result_.outcome != job::Outcome::kDone) return result_;
  in_.observer->OnPhase("exporting");
  if (absl::Status s = LoadBest(); !s.ok()) return s;
  absl::StatusOr<std::string> exported = Export();
  if (!exported.ok()) return exported.status();
  result_.adapter_dir = *exported;
  return result_;
}

// Returns with result_.outcome set.
absl::Status Trainer::Loop() {
  job::RunControl& control = this->control();
  while (state_.step < total_steps_ && !control.finish && !StoppedEarly()) {
    if (control.cancel) {
      result_.outcome = job::Outcome::kCancelled;
      return absl::OkStatus();
    }
    if (control.leave) {
      result_.outcome = job::Outcome::kCheckpointed;
      return Checkpoint();
    }
    const absl::StatusOr<StepResult> step = TrainStep();
    if (absl::IsCancelled(step.status())) continue;  // control says why
    if (absl::IsResourceExhausted(step.status())) return LeaveForMemory();
    if (!step.ok()) return step.status();
    FT_FAILPOINT("trainer.step");
    ReportStep(*step);
    FT_FAILPOINT("trainer.reported");
    if (absl::Status s = CountSkipped(*step); !s.ok()) return s;
    if (Due(spec_.evaluation.every_steps)) {
      if (absl::Status s = Evaluate(); !s.ok()) return s;
    }
    if (CheckpointDue()) {
      if (absl::Status s = Checkpoint(); !s.ok()) return s;
    }
  }
  if (absl::Status s = Evaluate(); !s.ok()) return s;
  FT_FAILPOINT("trainer.last_step");
  result_.outcome = job::Outcome::kDone;
  return Checkpoint();
}

bool Trainer::CheckpointDue() {
  const double every = spec_.checkpoints.every_seconds;
  return Due(spec_.checkpoints.every_steps) || control().checkpoint.exchange(false) ||
         (every > 0 && SecondsSince(checkpointed_at_) >= every);
}

absl::StatusOr<Trainer::StepResult> Trainer::TrainStep() {
  const TrainerState before = state_;
  for (;;) {
    std::string error;
    try {
      return TryStep();
    } catch (const c10::Error& e) {
      if (!IsOutOfMemory(e) || updating_ || in_.world != nullptr) throw;
      error = e.what_without_backtrace();
    }
    state_ = before;
    if (!FindMemory(error)) return absl::ResourceExhaustedError(error);
  }
}

absl::StatusOr<Trainer::StepResult> Trainer::TryStep() {
  const auto start = std::chrono::steady_clock::now();
  absl::StatusOr<Window> made = NextWindow();
  if (!made.ok()) return made.status();
  const Window& window = *made;
  adapter_.ZeroGradients();
  gradient_sum_.Begin(window.share.Of(static_cast<int64_t>(window.batches.size())));
  const at::Tensor measured = method_->AccumulateGradients(window);
  gradient_sum_.Finish();
  Doing(absl::StrCat("updating the adapter in step ", window.step));
  StepResult result = UpdateAdapter(window, measured);
  for (const data::PackedBatch& batch : window.batches) {
    result.tokens += static_cast<int64_t>(batch.input_ids.size());
    result.targets += batch.num_targets;
  }
  if (result.skipped && method_->StepsPerEpoch() == 0) {
    result.lines = LinesOf(window, in_.train->rows);
    SaveBatch(spec_.state_dir, window, in_.train->rows, result.values.at("loss"), result.grad_norm);
  }
  state_.pass += static_cast<int64_t>(window.batches.size());
  ++state_.step;
  if (!result.skipped) ++state_.optimizer_updates;
  state_.num_tokens += result.tokens;
  state_.trained_tokens += result.targets;
  result.seconds = SecondsSince(start);
  return result;
}

absl::StatusOr<Window> Trainer::NextWindow() {
  if (method_->StepsPerEpoch() > 0) {
    return method_->MakeWindow(state_.step + 1, static_cast<uint64_t>(state_.pass));
  }
  if (state_.micro_batch >= plan_.micro_batches()) {
    ++state_.epoch;
    state_.micro_batch = 0;
    plan_ = data::BatchPlan(in_.train->rows, BatchOptions(spec_), state_.epoch);
  }
  // The last window of an epoch may be shorter.
  const int64_t end = std::min(state_.micro_batch + spec_.schedule.gradient_accumulation_steps,
                               plan_.micro_batches());
  Window window;
  window.step = state_.step + 1;
  window.first_pass = static_cast<uint64_t>(state_.pass);
  window.share = ShareOf(in_.world);
  for (; state_.micro_batch < end; ++state_.micro_batch) {
    window.batches.push_back(plan_.Build(state_.micro_batch));
  }
  return window;
}

// Clips, updates and reads everything the step measured: the only wait for the device in a step.
Trainer::StepResult Trainer::UpdateAdapter(const Window& window, const at::Tensor& measured_here) {
  const at::Tensor measured = MeasuredByAll(measured_here);
  StepResult result;
  result.learning_rate = LearningRate(spec_.optimizer, total_steps_, state_.step);
  const auto f32 = at::TensorOptions().device(device_).dtype(at::kFloat);
  at::Tensor norm = at::empty({1}, f32), clip = at::empty({1}, f32), skip = at::empty({1}, f32);
  kernels::GradNormAndScale({adapter_.gradients()}, spec_.optimizer.max_grad_norm, norm, clip,
                            skip);
  FT_FAILPOINT("trainer.before_update");
  updating_ = true;
  optimizer_.Step(result.learning_rate, state_.optimizer_updates + 1, clip, skip);
  updating_ = false;
  FT_FAILPOINT("trainer.after_update");

  if (in_.world != nullptr) in_.world->AwaitSums();
  const at::Tensor host =
      at::cat({measured, norm.to(at::kDouble), skip.to(at::kDouble)}).to(at::kCPU);
  const double* values = host.const_data_ptr<double>();
  result.values = method_->StepValues(window, values);
  result.grad_norm = values[measured.numel()];
  result.skipped = values[measured.numel() + 1] != 0;
  if (in_.world != nullptr) Agree(values + measured_here.numel());
  return result;
}

// With the wishes of each process behind the values measured: one more sum for both.
at::Tensor Trainer::MeasuredByAll(const at::Tensor& measured) {
  if (in_.world == nullptr) return measured;
  job::RunControl& told = *in_.control;
  const double wishes[kWishes] = {told.checkpoint.exchange(false) ? 1.0 : 0.0, told.leave ? 1.0 : 0.0,
                                  told.finish ? 1.0 : 0.0, told.cancel ? 1.0 : 0.0};
  const at::Tensor host = at::empty({kWishes}, at::TensorOptions().dtype(at::kDouble).pinned_memory(device_.is_cuda()));
  std::copy(wishes, wishes + kWishes, host.data_ptr<double>());
  const at::Tensor all = at::cat({measured, host.to(device_, /*non_blocking=*/true)});
  in_.world->Sum(all);
  return all;
}

void Trainer::Agree(const double* wishes) {
  if (wishes[0] > 0) agreed_.checkpoint = true;
  if (wishes[1] > 0) agreed_.leave = true;
  if (wishes[2] > 0) agreed_.finish = true;
  if (wishes[3] > 0) agreed_.cancel = true;
}

absl::Status Trainer::CountSkipped(const StepResult& result) {
  if (!result.skipped) {
    state_.skipped_in_row = 0;
    return absl::OkStatus();
  }
  ++state_.skipped_in_row;
  const std::string rows =
      result.lines.empty() ? "" : absl::StrCat("; its rows: line ", absl::StrJoin(result.lines, ", "));
  in_.observer->OnWarning("NON_FINITE_GRADIENT",
                          absl::StrCat("step ", state_.step, " was skipped: loss ", result.values.at("loss"),
                                       ", gradient norm ", result.grad_norm, rows));
  if (state_.skipped_in_row < kSkippedStepsLimit) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(
      "the gradients of ", kSkippedStepsLimit, " steps in a row were not finite, the last is step ",
      state_.step, rows, "; lower optimizer.learning_rate or look for damaged rows in the dataset",
      rows.empty() ? "" : absl::StrCat(" (the batch is in ", kNonFiniteFile, " of the job's directory)")));
}

void Trainer::ReportStep(const StepResult& r) {
  const double mean_length =
      static_cast<double>(in_.train->stats.tokens) / std::max<double>(1, in_.train->rows.size());
  const double flops = (plan::TrainFlopsPerToken(plan_input_, mean_length) +
                        method_->ReferencePasses() * plan::ForwardFlopsPerToken(plan_input_, mean_length)) *
                       static_cast<double>(r.tokens);
  last_values_ = r.values;
  last_values_.merge(std::map<std::string, double>{
      {"grad_norm", r.grad_norm},
      {"learning_rate", r.learning_rate},
      {"num_tokens", static_cast<double>(state_.num_tokens)},
      {"trained_tokens", static_cast<double>(state_.trained_tokens)},
      {"tokens_per_second", static_cast<double>(r.tokens) / std::max(1e-9, r.seconds)},
      {"step_time", r.seconds},
      {"flops", flops},
      {"memory_planned_bytes", static_cast<double>(plan::PlanMemory(plan_input_).total())}});
  if (checkpoint_seconds_ > 0) last_values_["checkpoint_time"] = std::exchange(checkpoint_seconds_, 0);
  AddMemory(device_, &last_values_);
  in_.observer->OnStep(state_.step, Epoch(), last_values_);
}

absl::Status Trainer::Evaluate() {
  const bool held_out = in_.eval != nullptr || in_.rollouts.eval != nullptr;
  if (!held_out || evaluated_step_ == state_.step) return absl::OkStatus();
  Doing(absl::StrCat("evaluating after step ", state_.step));
  evaluated_step_ = state_.step;
  const std::map<std::string, double> values = method_->Evaluate(state_.step);
  for (const auto& [name, value] : values) last_values_[name] = value;
  in_.observer->OnEval(state_.step, values);
  if (sampler_) sampler_->Sample(state_.step);
  return TrackBest(values);
}

// As transformers: a metric named ...loss is better when smaller, any other when larger.
absl::Status Trainer::TrackBest(const std::map<std::string, double>& values) {
  const std::string& metric = spec_.checkpoints.best_metric;
  const auto found = values.find(metric);
  if (found == values.end() || state_.step == 0) return absl::OkStatus();
  const double sign = absl::EndsWith(metric, "loss") ? -1 : 1;
  const bool first = !state_.best_value && std::isfinite(found->second);
  const double gain = state_.best_value ? sign * (found->second - *state_.best_value) : 0;
  if (first || gain > spec_.evaluation.early_stopping_min_delta) {
    state_.evaluations_without_improvement = 0;
  } else {
    ++state_.evaluations_without_improvement;
  }
  if (!first && !(gain > 0)) return absl::OkStatus();
  state_.best_value = found->second;
  state_.best_step = state_.step;
  return spec_.checkpoints.keep_best ? Checkpoint() : absl::OkStatus();
}

bool Trainer::StoppedEarly() const {
  const int64_t patience = spec_.evaluation.early_stopping_patience;
  return patience > 0 && state_.evaluations_without_improvement >= patience;
}

// With keep_best the adapter of the best evaluation is exported, not the last one.
absl::Status Trainer::LoadBest() {
  if (StoppedEarly() && state_.step < total_steps_) {
    in_.observer->OnLog(absl::StrCat("stopped early after step ", state_.step, ": ",
                                     spec_.checkpoints.best_metric, " did not improve in ",
                                     state_.evaluations_without_improvement, " evaluations"));
  }
  if (!spec_.checkpoints.keep_best || !state_.best_value || state_.best_step == state_.step || !IsFirst()) {
    return absl::OkStatus();
  }
  in_.observer->OnLog(absl::StrCat("the adapter of step ", state_.best_step, " is exported: its ",
                                   spec_.checkpoints.best_metric, " of ", *state_.best_value,
                                   " is the best"));
  return lora::LoadPeftWeights(CheckpointFolder(spec_.state_dir, state_.best_step), &adapter_);
}

absl::Status Trainer::Checkpoint() {
  if (checkpointed_step_ == state_.step || !IsFirst()) return absl::OkStatus();
  Doing(absl::StrCat("writing the checkpoint of step ", state_.step));
  const auto start = std::chrono::steady_clock::now();
  auto written =
      WriteCheckpoint(spec_.state_dir, in_.identity, StateOfJob(), adapter_, description_, optimizer_);
  if (!written.ok()) return written.status();
  checkpointed_step_ = state_.step;
  checkpointed_at_ = std::chrono::steady_clock::now();
  checkpoint_seconds_ = std::chrono::duration<double>(checkpointed_at_ - start).count();
  FT_FAILPOINT("trainer.checkpoint_written");
  in_.observer->OnCheckpoint(state_.step, written->directory, written->bytes);
  RemoveOldCheckpoints(spec_.state_dir, {spec_.checkpoints.keep_last,
                                         spec_.checkpoints.keep_best && state_.best_value ? state_.best_step : -1});
  return absl::OkStatus();
}

absl::StatusOr<std::string> Trainer::Export() {
  FT_FAILPOINT("trainer.export");
  const std::string path = spec_.state_dir + "/adapter";
  if (!IsFirst()) return path;
  Doing("writing the adapter");
  RemoveLeftovers(spec_.state_dir);
  auto directory = NewDirectory::Create(spec_.state_dir, "adapter");
  if (!directory.ok()) return directory.status();
  absl::Status status = lora::SavePeft(adapter_, description_, (*directory)->path());
  FT_FAILPOINT("trainer.adapter_written");
  if (!status.ok()) return status;
  auto bytes = (*directory)->Commit();
  if (!bytes.ok()) return bytes.status();
  FT_FAILPOINT("trainer.exported");
  return path;
}

double Trainer::Epoch() const {
  const int64_t steps = method_->StepsPerEpoch();
  if (steps > 0) return static_cast<double>(state_.step) / static_cast<double>(steps);
  return static_cast<double>(state_.epoch) + static_cast<double>(state_.micro_batch) /
                                                 static_cast<double>(std::max<int64_t>(1, plan_.micro_batches()));
}

int64_t Trainer::TotalStepsOfRun() const {
  const int64_t steps = method_->StepsPerEpoch();
  const int64_t accumulation = spec_.schedule.gradient_accumulation_steps;
  return TotalSteps(spec_.schedule, steps > 0 ? steps * accumulation : plan_.micro_batches());
}

MethodInputs Trainer::InputsOfMethod() {
  MethodInputs m;
  m.spec = &spec_;
  m.base = in_.base;
  m.adapter = &adapter_;
  m.decoder = &*decoder_;
  m.device = device_;
  m.train = in_.train;
  m.eval = in_.eval;
  m.reference_fingerprint = absl::StrCat(in_.identity.base_fingerprint, in_.identity.init_adapter_sha256);
  m.rollouts = in_.rollouts;
  m.run_identity = absl::StrCat(in_.identity.spec.dump(), in_.identity.base_fingerprint, in_.identity.dataset_sha256,
                                in_.identity.init_adapter_sha256);
  m.observer = in_.observer;
  m.control = in_.control;
  m.world = in_.world;
  m.doing = [this](std::string what) {
    Doing(std::move(what));
    memory_.BeforePass();
  };
  return m;
}

model::DecoderOptions Trainer::DecoderOptions() {
  return {.recompute_activations = spec_.activation_checkpointing,
          .keep_all_layers = spec_.keep_all_layers,
          .keep_attention_layers = spec_.keep_attention_layers,
          .offload_inputs = spec_.activation_offload,
          .piece_rows = spec_.activation_piece_rows,
          .standing_layers = spec_.standing_layers,
          .deterministic = spec_.deterministic,
          .label_smoothing = spec_.sft.label_smoothing,
          .layer_done = in_.world == nullptr ? std::function<void(int64_t)>()
                                             : [this](int64_t layer) { gradient_sum_.LayerDone(layer); }};
}

TrainerState Trainer::StateOfJob() const {
  TrainerState state = state_;
  const int64_t rows = in_.spec->schedule.micro_batch_size;
  // Between windows a whole number of them; at the end of an epoch the last may be smaller.
  state.micro_batch = (state.micro_batch * spec_.schedule.micro_batch_size + rows - 1) / rows;
  return state;
}

void Trainer::Doing(std::string what) {
  if (in_.doing != nullptr) *in_.doing = std::move(what);
}

}  // namespace finetuned::train
