#include "engine/train/grpo_method.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/batch.h"
#include "engine/plan/rollout.h"
#include "engine/train/checkpoint.h"

namespace finetuned::train {
namespace {

// loss, the loss's metrics, and the micro-batches they are summed over.
constexpr int64_t kMeasured = 1 + grpo::kMetrics + 1;
constexpr int64_t kUnscoredRolloutsLimit = 5;

grpo::ScheduleOptions ScheduleOf(const job::TrainSpec& spec, size_t prompts) {
  grpo::ScheduleOptions o;
  o.prompts = static_cast<int64_t>(prompts);
  o.group_size = spec.grpo.group_size;
  o.prompts_per_rollout = spec.grpo.prompts_per_rollout;
  o.micro_batch_size = spec.schedule.micro_batch_size;
  o.accumulation = spec.schedule.gradient_accumulation_steps;
  o.updates_per_rollout = spec.grpo.updates_per_rollout;
  o.shuffle = spec.schedule.shuffle;
  o.seed = spec.seed;
  return o;
}

// The spec was validated.
grpo::LossOptions LossOptionsOf(const job::GrpoOptions& g) {
  grpo::LossOptions o;
  o.type = *grpo::ParseLossType(g.loss_type);
  o.sequence_level = g.importance_sampling == "sequence";
  o.clip_low = g.clip_low;
  o.clip_high = g.clip_high;
  o.delta = g.delta;
  o.beta = g.beta;
  o.bias_corrected_kl = g.use_bias_correction_kl;
  o.top_entropy_quantile = g.top_entropy_quantile;
  o.entropy_coef = g.entropy_coef;
  o.max_completion_tokens = g.max_completion_tokens;
  return o;
}

generate::SamplingOptions SamplingOf(const job::GrpoOptions& g, const model::BaseModel& base) {
  generate::SamplingOptions s;
  s.max_new_tokens = g.max_completion_tokens;
  s.temperature = g.temperature;
  s.top_k = g.top_k;
  s.top_p = g.top_p;
  s.min_p = g.min_p;
  s.repetition_penalty = g.repetition_penalty;
  s.eos_ids = base.config.eos_token_ids;
  return s;
}

reward::AdvantageOptions AdvantagesOf(const job::GrpoOptions& g) {
  using Scale = reward::AdvantageOptions::Scale;
  reward::AdvantageOptions o;
  o.group_size = g.group_size;
  o.scale = g.advantage_scale == "group" ? Scale::kGroup : g.advantage_scale == "batch" ? Scale::kBatch : Scale::kNone;
  o.normalize_each = g.reward_aggregation == "normalize_then_sum";
  return o;
}

at::Tensor Upload(const std::vector<float>& values, at::Device device) {
  at::Tensor host = at::empty({static_cast<int64_t>(values.size())},
                              at::TensorOptions().dtype(at::kFloat).pinned_memory(device.is_cuda()));
  std::copy(values.begin(), values.end(), host.data_ptr<float>());
  return host.to(device, /*non_blocking=*/true);
}

// A document whose last `targets` tokens are trained on.
data::TokenizedRow RowOf(std::vector<int32_t> ids, int64_t targets) {
  data::TokenizedRow row;
  row.trained.assign(ids.size(), 0);
  std::fill(row.trained.end() - targets, row.trained.end(), 1);
  row.input_ids = std::move(ids);
  return row;
}

// leaders: see data::PackSharing.
data::PackedBatch PackRows(const std::vector<data::TokenizedRow>& rows, const std::vector<int64_t>& leaders) {
  std::vector<const data::TokenizedRow*> documents;
  for (const data::TokenizedRow& row : rows) documents.push_back(&row);
  return data::PackSharing(documents, leaders);
}

}  // namespace

int64_t CompletionsPerRollout(const job::TrainSpec& spec) {
  if (spec.grpo.prompts_per_rollout > 0) return spec.grpo.prompts_per_rollout * spec.grpo.group_size;
  return spec.schedule.micro_batch_size * spec.schedule.gradient_accumulation_steps;
}

plan::Rollout PlannedRollout(const job::TrainSpec& spec) {
  return plan::RolloutOf(CompletionsPerRollout(spec), spec.schedule.max_seq_length, spec.grpo.max_completion_tokens);
}

absl::Status GrpoMethod::Check(const job::TrainSpec& spec, size_t prompts) {
  const auto rewards = reward::RewardSet::Make(spec.grpo.builtin_rewards);
  if (!rewards.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("grpo.builtin_rewards: ", rewards.status().message()));
  }
  return grpo::RolloutSchedule::Check(ScheduleOf(spec, prompts));
}

GrpoMethod::GrpoMethod(const MethodInputs& inputs)
    : in_(inputs),
      options_(in_.spec->grpo),
      rewards_(*reward::RewardSet::Make(options_.builtin_rewards)),
      schedule_(ScheduleOf(*in_.spec, in_.rollouts.train->prompts.size())),
      loss_options_(LossOptionsOf(options_)),
      log_prob_options_{options_.temperature},
      generator_(*in_.base, in_.adapter,
                 GeneratorOptionsFor(in_, PlannedRollout(*in_.spec), generate::GeneratorOptions{}.prefill_tokens)),
      maker_(MakerInputs(in_.rollouts.train->prompts, "r")),
      journal_(in_.spec->state_dir, in_.run_identity) {}

grpo::RolloutMakerInputs GrpoMethod::MakerInputs(const std::vector<data::Prompt>& prompts, const char* prefix) {
  grpo::RolloutMakerInputs m;
  m.generator = &generator_;
  m.tokenizer = in_.rollouts.tokenizer;
  m.prompts = &prompts;
  m.rewards = &rewards_;
  m.remote_names = options_.remote_rewards;
  m.remote_weights = options_.remote_weights;
  m.scorer = in_.rollouts.scorer;
  m.sampling = SamplingOf(options_, *in_.base);
  m.stop = options_.stop;
  m.advantages = AdvantagesOf(options_);
  m.seed = in_.spec->seed;
  m.batch_prefix = prefix;
  m.stop_wanted = [this] { return StopWanted(); };
  m.warn = [this](const std::string& code, const std::string& text) { in_.observer->OnWarning(code, text); };
  return m;
}

bool GrpoMethod::StopWanted() const {
  const job::RunControl& c = *in_.control;
  return c.leave || c.cancel || c.finish;
}

absl::StatusOr<Window> GrpoMethod::MakeWindow(int64_t step, uint64_t first_pass) {
  const int64_t index = schedule_.RolloutOf(step);
  if (!rollout_ || rollout_->index != index) {
    if (absl::Status s = LoadRollout(index, step); !s.ok()) return s;
  }
  Window window;
  window.step = step;
  window.first_pass = first_pass;
  pieces_.clear();
  for (const std::vector<int64_t>& completions : schedule_.MicroBatchesOf(step)) {
    std::vector<int64_t> lengths;
    window.batches.push_back(Pack(completions, &lengths));
    pieces_.push_back(MakePiece(completions, lengths));
  }
  // As TRL: the tokens of the whole rollout, scaled to one optimizer step.
  int64_t tokens = 0;
  for (size_t i = 0; i < rollout_->completions.size(); ++i) {
    if (!LeftOut(static_cast<int64_t>(i))) tokens += static_cast<int64_t>(rollout_->completions[i].tokens.size());
  }
  const double steps = static_cast<double>(schedule_.steps_per_rollout() / options_.updates_per_rollout);
  window_tokens_ = static_cast<double>(tokens) / steps;
  return window;
}

absl::Status GrpoMethod::LoadRollout(int64_t index, int64_t step) {
  rollout_.reset();
  auto found = journal_.Load(index, [&](const std::string& text) { in_.observer->OnWarning("ROLLOUT_DAMAGED", text); });
  if (!found) {
    if (step != schedule_.FirstStepOf(index)) {
      in_.observer->OnWarning("ROLLOUT_LOST", absl::StrCat("rollout ", index, " is sampled again in its middle: the "
                                                           "run will differ from one that was not interrupted"));
    }
    grpo::Rollout fresh;
    fresh.index = index;
    fresh.prompts = schedule_.PromptsOf(index);
    fresh.group_size = options_.group_size;
    in_.doing(absl::StrCat("sampling rollout ", index, " for step ", step));
    if (absl::Status s = maker_.Generate(step, &fresh); !s.ok()) return s;
    if (!options_.remote_rewards.empty()) {
      if (absl::Status s = journal_.Save(fresh); !s.ok()) return s;
    }
    found = std::move(fresh);
  }
  const bool scored = found->scored;
  if (!scored) {
    in_.doing(absl::StrCat("waiting for the rewards of rollout ", index));
    if (absl::Status s = maker_.Score(step, &*found); !s.ok()) return s;
    if (absl::Status s = CountUnscored(*found); !s.ok()) return s;
  }
  rollout_ = std::move(found);
  if (scored) return absl::OkStatus();
  if (schedule_.steps_per_rollout() > 1) {
    if (absl::Status s = AddOldLogProbs(); !s.ok()) return s;
  }
  if (absl::Status s = journal_.Save(*rollout_); !s.ok()) return s;
  if (const auto oldest = OldestCheckpointStep(in_.spec->state_dir)) {
    journal_.Prune(schedule_.RolloutOf(*oldest + 1));
  }
  ReportSamples(step, *rollout_, in_.rollouts.train->prompts, options_.samples_per_rollout, "");
  return absl::OkStatus();
}

// Rewards that never give a score teach nothing: the run ends instead of going on for nothing.
absl::Status GrpoMethod::CountUnscored(const grpo::Rollout& rollout) {
  const bool any = std::any_of(rollout.completions.begin(), rollout.completions.end(),
                               [](const grpo::RolloutCompletion& c) { return std::isfinite(c.reward); });
  unscored_in_row_ = any ? 0 : unscored_in_row_ + 1;
  if (unscored_in_row_ < kUnscoredRolloutsLimit) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("no completion of ", kUnscoredRolloutsLimit, " rollouts in a row got a score, the last is rollout ",
                   rollout.index, "; the warnings say why; try the rewards (EvaluateReward) before you submit again"));
}

// The policy moves while the rollout's steps are taken: its log probabilities before them are kept.
absl::Status GrpoMethod::AddOldLogProbs() {
  const int64_t total = static_cast<int64_t>(rollout_->completions.size());
  const int64_t size = in_.spec->schedule.micro_batch_size;
  for (int64_t first = 0; first < total; first += size) {
    std::vector<int64_t> completions, lengths;
    for (int64_t i = first; i < std::min(total, first + size); ++i) completions.push_back(i);
    const data::PackedBatch packed = Pack(completions, &lengths);
    if (packed.num_targets == 0) continue;
    in_.doing(absl::StrCat("log probabilities of rollout ", rollout_->index, ", ", packed.input_ids.size(), " tokens"));
    const at::Tensor host = in_.decoder
                                ->LogProbs(model::Upload(packed, in_.device), log_prob_options_, model::AdapterUse::kOn)
                                .log_probs_M.to(at::kCPU)
                                .contiguous();
    const float* values = host.const_data_ptr<float>();
    for (size_t i = 0; i < completions.size(); ++i) {
      rollout_->completions[completions[i]].old_log_probs.assign(values, values + lengths[i]);
      values += lengths[i];
    }
  }
  return absl::OkStatus();
}

bool GrpoMethod::LeftOut(int64_t completion) const {
  const bool dropped = rollout_->dropped[completion / rollout_->group_size] != 0;
  return dropped || (options_.mask_truncated && rollout_->completions[completion].truncated);
}

// Completions of one group have its prompt once.
data::PackedBatch GrpoMethod::Pack(const std::vector<int64_t>& completions, std::vector<int64_t>* lengths) const {
  std::vector<data::TokenizedRow> rows;
  std::vector<int64_t> leaders;
  std::map<int64_t, int64_t> first_of_group;
  for (const int64_t i : completions) {
    lengths->push_back(0);
    if (LeftOut(i)) continue;
    const std::vector<int32_t>& tokens = rollout_->completions[i].tokens;
    const int64_t group = i / rollout_->group_size;
    std::vector<int32_t> ids = in_.rollouts.train->prompts[rollout_->prompts[group]].ids;
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    lengths->back() = static_cast<int64_t>(tokens.size());
    leaders.push_back(first_of_group.try_emplace(group, static_cast<int64_t>(rows.size())).first->second);
    rows.push_back(RowOf(std::move(ids), lengths->back()));
  }
  return PackRows(rows, leaders);
}

GrpoMethod::Piece GrpoMethod::MakePiece(const std::vector<int64_t>& completions,
                                        const std::vector<int64_t>& lengths) const {
  std::vector<double> advantages;
  std::vector<float> old;
  for (size_t i = 0; i < completions.size(); ++i) {
    const grpo::RolloutCompletion& c = rollout_->completions[completions[i]];
    advantages.push_back(c.advantage);
    if (lengths[i] > 0) old.insert(old.end(), c.old_log_probs.begin(), c.old_log_probs.end());
  }
  Piece piece;
  piece.loss = grpo::MakeLossBatch(lengths, advantages, in_.device);
  if (!old.empty()) piece.old_M = Upload(old, in_.device);
  return piece;
}

// Every completion as long as can be.
Window GrpoMethod::ProbeWindow(const data::BatchPlan&) {
  const int64_t length = in_.spec->schedule.max_seq_length, rows = in_.spec->schedule.micro_batch_size;
  const int64_t targets = std::min(options_.max_completion_tokens, length - 1);
  const data::TokenizedRow row = RowOf(std::vector<int32_t>(length, in_.rollouts.train->prompts[0].ids[0]), targets);
  Window window;
  window.batches.push_back(data::Pack({row}, std::vector<int64_t>(rows, 0)));
  pieces_.clear();
  Piece& piece = pieces_.emplace_back();
  piece.loss = grpo::MakeLossBatch(std::vector<int64_t>(rows, targets), std::vector<double>(rows, 1), in_.device);
  if (schedule_.steps_per_rollout() > 1) {
    piece.old_M = at::zeros({rows * targets}, at::TensorOptions().device(in_.device).dtype(at::kFloat));
  }
  return window;
}

double GrpoMethod::ReferencePasses() const {
  // Log probabilities before a rollout's steps are computed once for all of its updates.
  const double old = schedule_.steps_per_rollout() > 1 ? 1.0 / static_cast<double>(options_.updates_per_rollout) : 0;
  return old + (options_.beta != 0 ? 1 : 0);
}

at::Tensor GrpoMethod::AccumulateGradients(const Window& window) {
  at::Tensor measured = at::zeros({kMeasured}, at::TensorOptions().device(in_.device).dtype(at::kDouble));
  const grpo::LossWindow divisors{static_cast<int64_t>(window.batches.size()), window_tokens_};
  for (size_t i = 0; i < window.batches.size(); ++i) {
    const data::PackedBatch& packed = window.batches[i];
    if (packed.num_targets == 0) continue;
    in_.doing(DescribeBatch(window, packed));
    const model::DeviceBatch batch = model::Upload(packed, in_.device);
    std::optional<model::DropoutPass> dropout;
    if (in_.spec->lora.dropout > 0) dropout = {in_.spec->seed, window.first_pass + i};
    grpo::PolicyLogProbs log_probs;
    if (options_.beta != 0) {
      log_probs.reference_M = in_.decoder->LogProbs(batch, log_prob_options_, model::AdapterUse::kOff).log_probs_M;
    }
    const model::TargetLogProbs policy = in_.decoder->ForwardLogProbs(batch, log_prob_options_, dropout);
    log_probs.policy_M = policy.log_probs_M;
    log_probs.entropy_M = policy.entropy_M;
    log_probs.old_M = pieces_[i].old_M;
    const grpo::LossResult result = grpo::PolicyLoss(pieces_[i].loss, log_probs, divisors, loss_options_);
    in_.decoder->BackwardLogProbs(batch, log_prob_options_, result.d_M, dropout, result.d_entropy_M);
    measured.narrow(0, 0, 1).add_(result.loss);
    measured.narrow(0, 1, grpo::kMetrics).add_(result.metrics);
    measured.narrow(0, 1 + grpo::kMetrics, 1).add_(1);
  }
  return measured;
}

std::map<std::string, double> GrpoMethod::StepValues(const Window&, const double* measured) const {
  std::map<std::string, double> values;
  if (rollout_) values = rollout_->metrics;
  values["loss"] = measured[0];
  if (options_.entropy_coef != 0) values["entropy_coef"] = options_.entropy_coef;
  const double batches = std::max(1.0, measured[1 + grpo::kMetrics]);
  const std::vector<bool> has = grpo::MetricsOf(loss_options_);
  for (int64_t i = 0; i < grpo::kMetrics; ++i) {
    if (has[i]) values[grpo::kMetricNames[i]] = measured[1 + i] / batches;
  }
  // A reward that abstained everywhere has no mean.
  std::erase_if(values, [](const auto& value) { return !std::isfinite(value.second) && value.first != "loss"; });
  return values;
}

// The held-out prompts answered once each with the most probable tokens.
std::map<std::string, double> GrpoMethod::Evaluate(int64_t step) {
  const auto start = std::chrono::steady_clock::now();
  grpo::RolloutMakerInputs inputs = MakerInputs(in_.rollouts.eval->prompts, "eval");
  inputs.sampling.temperature = 0;
  // Told to finish, the run still evaluates.
  inputs.stop_wanted = [this] { return in_.control->leave || in_.control->cancel; };
  grpo::RolloutMaker maker(std::move(inputs));
  grpo::Rollout rollout;
  rollout.index = evaluations_++;
  rollout.group_size = 1;
  for (size_t i = 0; i < in_.rollouts.eval->prompts.size(); ++i) rollout.prompts.push_back(static_cast<int64_t>(i));
  absl::Status status = maker.Generate(0, &rollout);
  if (status.ok()) status = maker.Score(0, &rollout);
  if (!status.ok()) {
    // It was told to stop: the run goes on where it was, without this evaluation.
    if (!absl::IsCancelled(status)) in_.observer->OnWarning("EVALUATION_FAILED", std::string(status.message()));
    return {};
  }
  ReportSamples(step, rollout, in_.rollouts.eval->prompts, in_.spec->evaluation.sample_prompts, "eval-");
  std::map<std::string, double> values;
  for (const auto& [name, value] : rollout.metrics) {
    const bool of_groups = name == "frac_reward_zero_std" || name == "rewards/zero_spread_groups";
    if (std::isfinite(value) && !of_groups) values[absl::StrCat("eval_", name)] = value;
  }
  values["eval_runtime"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return values;
}

void GrpoMethod::ReportSamples(int64_t step, const grpo::Rollout& rollout, const std::vector<data::Prompt>& prompts,
                               int64_t wanted, const char* prefix) const {
  const int64_t total = static_cast<int64_t>(rollout.completions.size());
  const int64_t count = std::min(total, wanted);
  const std::vector<std::string> names = maker_.RewardNames();
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = k * total / count;
    const grpo::RolloutCompletion& c = rollout.completions[i];
    const data::Prompt& prompt = prompts[rollout.prompts[i / rollout.group_size]];
    job::SampleOutput sample{step,     prompt.text, c.text, c.reward, c.advantage, absl::StrCat(prefix, "line-", prompt.line),
                             static_cast<int32_t>(i % rollout.group_size), {}, c.truncated};
    for (size_t r = 0; r < names.size(); ++r) sample.rewards[names[r]] = c.scores[r];
    in_.observer->OnSample(sample);
  }
}

}  // namespace finetuned::train
