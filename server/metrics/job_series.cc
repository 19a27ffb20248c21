#include "server/metrics/job_series.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "proto/spec/tools.h"

namespace finetuned::metrics {
namespace {

// From an empty step to a long rollout or evaluation.
const prometheus::Histogram::BucketBoundaries kPhaseBuckets = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                               2.5,  5,     10,   30,  60,   300, 1800};

double Value(const google::protobuf::Map<std::string, double>& values, const char* key) {
  const auto found = values.find(key);
  return found == values.end() ? 0 : found->second;
}

double Unix(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

}  // namespace

JobSeries::JobSeries(Families* families, const std::string& job)
    : f_(*families), id_(absl::StartsWith(job, "jobs/") ? job.substr(5) : job) {}

JobSeries::~JobSeries() {
  for (const auto& remove : removers_) remove();
}

void JobSeries::Set(Families::Gauges family, double value, const prometheus::Labels& labels) {
  prometheus::Gauge*& gauge = gauges_[{&family, labels}];
  if (gauge == nullptr) {
    prometheus::Labels all = labels;
    all["job_id"] = id_;
    gauge = &family.Add(all);
    removers_.push_back([&family, gauge = gauge] { family.Remove(gauge); });
  }
  gauge->Set(value);
}

void JobSeries::Add(Families::Counters family, double value, const prometheus::Labels& labels) {
  prometheus::Counter*& counter = counters_[{&family, labels}];
  if (counter == nullptr) {
    prometheus::Labels all = labels;
    all["job_id"] = id_;
    counter = &family.Add(all);
    removers_.push_back([&family, counter = counter] { family.Remove(counter); });
  }
  if (value > 0) counter->Increment(value);
}

void JobSeries::OnDevice(const v1::Job& job) {
  remove_at = absl::InfiniteFuture();
  peak_ = context_ = 0;
  for (const v1::MemoryItem& item : job.memory().items()) {
    if (item.name() == "cuda_context") context_ = static_cast<double>(item.bytes());
  }
  const v1::ScheduleSpec& schedule = job.resolved_spec().schedule();
  rows_per_step_ = std::max(1, schedule.micro_batch_size()) * std::max(1, schedule.gradient_accumulation_steps());
  const v1::GrpoSpec& grpo = job.resolved_spec().grpo();
  group_size_ = std::max(1, grpo.group_size());
  groups_ = grpo.prompts_per_rollout() > 0 ? grpo.prompts_per_rollout() : std::max(1.0, rows_per_step_ / group_size_);
  const std::string& base = job.spec().base_model();
  Set(f_.job_info, 1, {{"name", job.display_name()}, {"method", spec::MethodName(job.spec())},
                       {"base_model", base.substr(base.rfind('/') + 1)}});
  const v1::MemoryEstimate& memory = job.memory();
  for (const auto& [component, bytes] : {std::pair{"weights", memory.weights_bytes()},
                                         std::pair{"adapter", memory.adapter_bytes()},
                                         std::pair{"gradients", memory.gradient_bytes()},
                                         std::pair{"optimizer", memory.optimizer_bytes()},
                                         std::pair{"activations", memory.activation_bytes()},
                                         std::pair{"logits", memory.logits_bytes()},
                                         std::pair{"kv_cache", memory.kv_cache_bytes()},
                                         std::pair{"runtime", memory.runtime_bytes()}}) {
    Set(f_.predicted_bytes, static_cast<double>(bytes), {{"component", component}});
  }
}

void JobSeries::Plan(const internal::v1::WorkerPlan& plan) {
  Set(f_.target_steps, static_cast<double>(plan.total_steps()));
  Set(f_.train_step, static_cast<double>(plan.first_step()));
}

void JobSeries::Step(const internal::v1::WorkerStep& step) {
  const Values& values = step.values();
  Set(f_.train_step, static_cast<double>(step.step()));
  Set(f_.last_step_time, Unix(absl::Now()));
  Set(f_.train_loss, Value(values, "loss"));
  Set(f_.learning_rate, Value(values, "learning_rate"));
  Set(f_.gradient_norm, Value(values, "grad_norm"));
  Add(f_.nonfinite_steps, 0);
  Tokens(values);
  Add(f_.flops, Value(values, "flops"));
  // On a GPU the process holds what its allocator reserved, and its context.
  const double reserved = Value(values, "memory_reserved_bytes");
  peak_ = std::max(peak_, reserved > 0 ? reserved + context_ : Value(values, "memory_peak_bytes"));
  Set(f_.peak_bytes, peak_);
  Phases(values);
  Preferences(values);
  Rollouts(values);
}

// The worker reports running totals, which fall back when it resumes from a checkpoint.
void JobSeries::Tokens(const Values& values) {
  const double tokens = Value(values, "num_tokens"), trained = Value(values, "trained_tokens");
  const double more_trained = std::max(0.0, trained - trained_);
  Add(f_.tokens, more_trained, {{"kind", "trained"}});
  Add(f_.tokens, std::max(0.0, tokens - tokens_ - more_trained), {{"kind", "masked"}});
  Add(f_.tokens, 0, {{"kind", "padding"}});
  tokens_ = tokens;
  trained_ = trained;
}

// Times of the whole daemon: they outlive the job.
void JobSeries::Phases(const Values& values) {
  for (const auto& [key, phase] : {std::pair{"step_time", "step"}, std::pair{"eval_runtime", "evaluation"},
                                   std::pair{"checkpoint_time", "checkpoint"},
                                   std::pair{"rollout/generate_time", "rollout"},
                                   std::pair{"rollout/reward_time", "reward"}}) {
    const auto found = values.find(key);
    if (found == values.end()) continue;
    f_.phase_duration.Add({{"phase", phase}}, kPhaseBuckets).Observe(found->second);
    if (found->first == "checkpoint_time") f_.checkpoint_duration.Add({}, kPhaseBuckets).Observe(found->second);
  }
}

void JobSeries::Preferences(const Values& values) {
  if (values.contains("rewards/margins")) Set(f_.reward_margin, values.at("rewards/margins"));
  if (!values.contains("rewards/accuracies")) return;  // of pairs only
  const double correct = values.at("rewards/accuracies") * rows_per_step_;
  Add(f_.preference_pairs, correct, {{"result", "correct"}});
  Add(f_.preference_pairs, rows_per_step_ - correct, {{"result", "wrong"}});
}

void JobSeries::Rollouts(const Values& values) {
  if (!values.contains("rollout/generate_time")) return;
  if (values.contains("kl")) Set(f_.policy_kl, values.at("kl"));
  if (values.contains("entropy")) Set(f_.policy_entropy, values.at("entropy"));
  for (const auto& [key, value] : values) {
    if (!absl::StartsWith(key, "rewards/") || !absl::EndsWith(key, "/mean")) continue;
    Set(f_.reward_mean, value, {{"reward", key.substr(8, key.size() - 13)}});
  }
  // Several steps may train on one rollout, and each tells of it.
  const double generated = values.at("rollout/generate_time");
  if (std::exchange(last_rollout_, generated) == generated) return;
  const double zero = std::min(groups_, Value(values, "rewards/zero_spread_groups"));
  Add(f_.rollout_groups, zero, {{"spread", "zero"}});
  Add(f_.rollout_groups, groups_ - zero, {{"spread", "some"}});
  const double completions = groups_ * group_size_, cut = completions * Value(values, "completions/clipped_ratio");
  Add(f_.rollout_completions, cut, {{"finish_reason", "length"}});
  Add(f_.rollout_completions, completions - cut, {{"finish_reason", "stop"}});
  Add(f_.rollout_tokens, completions * Value(values, "completions/mean_length"));
}

void JobSeries::Eval(const internal::v1::WorkerStep& eval) {
  if (eval.values().contains("eval_loss")) Set(f_.eval_loss, eval.values().at("eval_loss"));
  Phases(eval.values());
}

void JobSeries::Checkpoint(absl::Time time) { Set(f_.last_checkpoint_time, Unix(time)); }

void JobSeries::SkippedStep() { Add(f_.nonfinite_steps, 1); }

}  // namespace finetuned::metrics
