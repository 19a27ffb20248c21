#include "server/metrics/metrics.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/metrics/families.h"
#include "server/metrics/gpu_series.h"
#include "server/metrics/storage_use.h"
#include "server/queue/state_machine.h"

namespace finetuned::metrics {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

constexpr const char* kMethods[] = {"sft", "dpo", "kto", "grpo"};

const prometheus::Labels kFatalOutOfMemory = {{"phase", "training"}, {"recovered", "false"}};

// From a blink to days.
Buckets Long() { return {1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600}; }
Buckets Short() { return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10}; }
Buckets Ratio() { return {0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25}; }

std::string JobId(const std::string& name) {
  return absl::StartsWith(name, "jobs/") ? name.substr(5) : name;
}

double Value(const google::protobuf::Map<std::string, double>& values, const char* key) {
  const auto found = values.find(key);
  return found == values.end() ? 0 : found->second;
}

double Unix(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

}  // namespace

// The series of one job, removed together.
struct JobSeries {
  absl::Time remove_at = absl::InfiniteFuture();
  std::vector<std::function<void()>> removers;
  std::map<std::string, prometheus::Gauge*> gauges;
  std::map<std::string, prometheus::Counter*> counters;
  // What the worker's running totals were when last seen.
  double tokens = 0, trained = 0;
  double peak = 0;
};

class Metrics::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)), registry_(std::make_shared<prometheus::Registry>()),
        families_(registry_.get()), queue_wait_(families_.queue_wait.Add({}, Long())),
        prediction_ratio_(families_.prediction_ratio.Add({}, Ratio())),
        journal_sync_(families_.journal_sync.Add({}, Short())),
        reward_duration_(families_.reward_duration.Add({}, Long())),
        storage_use_(std::make_shared<StorageUse>(options_.state_dir)), gpus_(&families_) {
    SetBuildInfo("", "");
    families_.ready.Add({});
    families_.oldest_enqueued.Add({});
    families_.watch_streams.Add({});
    families_.reward_workers.Add({});
    for (const char* result : {"ok", "error", "timeout"}) families_.reward_batches.Add({{"result", result}});
    families_.watch_closed.Add({{"reason", "slow_consumer"}});
    CheckpointFailures("read", "damaged");
    families_.out_of_memory.Add(kFatalOutOfMemory);
    for (const char* method : kMethods) {
      families_.submitted.Add({{"method", method}});
      for (int state = v1::VALIDATING; state <= v1::CANCELLED; ++state) {
        JobGauge(method, static_cast<v1::JobState>(state));
      }
    }
  }

  prometheus::Gauge& JobGauge(const std::string& method, v1::JobState state) {
    return families_.jobs.Add({{"state", queue::StateName(state)}, {"method", method}});
  }

  void SetBuildInfo(const std::string& cuda, const std::string& libtorch) {
    if (build_info_ != nullptr) families_.build_info.Remove(build_info_);
    build_info_ = &families_.build_info.Add({{"version", options_.version}, {"revision", FINETUNED_REVISION},
                                             {"cuda", cuda}, {"libtorch", libtorch}});
    build_info_->Set(1);
  }

  prometheus::Counter& CheckpointFailures(const char* operation, const char* reason) {
    return families_.checkpoint_failures.Add({{"operation", operation}, {"reason", reason}});
  }

  // REQUIRES: mutex_ is held. Null for a job that never had the device.
  JobSeries* Find(const std::string& job) {
    const auto found = jobs_.find(job);
    return found == jobs_.end() ? nullptr : &found->second;
  }

  void Set(JobSeries* series, const std::string& job, Families::Gauges family, double value,
           const std::string& label = "", const std::string& label_value = "") {
    prometheus::Gauge*& gauge = series->gauges[absl::StrCat(Key(&family), label_value)];
    if (gauge == nullptr) {
      prometheus::Labels labels = {{"job_id", JobId(job)}};
      if (!label.empty()) labels[label] = label_value;
      gauge = &family.Add(labels);
      series->removers.push_back([&family, gauge = gauge] { family.Remove(gauge); });
    }
    gauge->Set(value);
  }

  void Add(JobSeries* series, const std::string& job, Families::Counters family, double value,
           const std::string& label = "", const std::string& label_value = "") {
    prometheus::Counter*& counter = series->counters[absl::StrCat(Key(&family), label_value)];
    if (counter == nullptr) {
      prometheus::Labels labels = {{"job_id", JobId(job)}};
      if (!label.empty()) labels[label] = label_value;
      counter = &family.Add(labels);
      series->removers.push_back([&family, counter = counter] { family.Remove(counter); });
    }
    if (value > 0) counter->Increment(value);
  }

  void Drop(const std::string& job) {
    const auto found = jobs_.find(job);
    if (found == jobs_.end()) return;
    for (const auto& remove : found->second.removers) remove();
    jobs_.erase(found);
  }

  static std::string Key(const void* family) {
    return absl::StrCat(reinterpret_cast<uintptr_t>(family), " ");
  }

  const Options options_;
  std::shared_ptr<prometheus::Registry> registry_;
  Families families_;
  prometheus::Histogram& queue_wait_;
  prometheus::Histogram& prediction_ratio_;
  prometheus::Histogram& journal_sync_;
  prometheus::Histogram& reward_duration_;
  prometheus::Gauge* build_info_ = nullptr;
  std::shared_ptr<StorageUse> storage_use_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::mutex mutex_;
  GpuSeries gpus_;                         // guarded by mutex_
  std::map<std::string, JobSeries> jobs_;  // guarded by mutex_
};

Metrics::Metrics(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Metrics::~Metrics() = default;

absl::Status Metrics::Serve(const std::string& address) {
  try {
    impl_->exposer_ = std::make_unique<prometheus::Exposer>(address, 2);
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("metrics.address: cannot listen on ", address, ": ", e.what()));
  }
  impl_->exposer_->RegisterCollectable(impl_->registry_);
  impl_->exposer_->RegisterCollectable(impl_->storage_use_);
  return absl::OkStatus();
}

int Metrics::port() const {
  if (impl_->exposer_ == nullptr) return 0;
  const std::vector<int> ports = impl_->exposer_->GetListeningPorts();
  return ports.empty() ? 0 : ports[0];
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry_->Collect();
  for (prometheus::MetricFamily& family : impl_->storage_use_->Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

void Metrics::JobSubmitted(const std::string& method) {
  impl_->families_.submitted.Add({{"method", method}}).Increment();
}

void Metrics::JobRejected(const std::string& reason) {
  impl_->families_.rejections.Add({{"reason", reason}}).Increment();
}

void Metrics::JobState(const std::string& method, v1::JobState from, v1::JobState to) {
  if (from != v1::JOB_STATE_UNSPECIFIED) impl_->JobGauge(method, from).Decrement();
  if (to != v1::JOB_STATE_UNSPECIFIED) impl_->JobGauge(method, to).Increment();
}

void Metrics::JobCount(const std::string& method, v1::JobState state, int64_t count) {
  impl_->JobGauge(method, state).Set(static_cast<double>(count));
}

void Metrics::JobFinished(const std::string& method, v1::JobState outcome, v1::StateReason reason,
                          absl::Duration ran) {
  const std::string name = queue::StateName(outcome);
  impl_->families_.finished
      .Add({{"method", method}, {"outcome", name}, {"reason", queue::ReasonName(reason)}})
      .Increment();
  if (ran > absl::ZeroDuration()) {
    impl_->families_.run_duration.Add({{"outcome", name}}, Long()).Observe(absl::ToDoubleSeconds(ran));
  }
}

void Metrics::QueueWait(absl::Duration waited) {
  impl_->queue_wait_.Observe(absl::ToDoubleSeconds(waited));
}

void Metrics::AttemptStarted(const std::string& cause) {
  impl_->families_.attempts.Add({{"cause", cause}}).Increment();
}

void Metrics::OldestQueued(absl::Time time) {
  impl_->families_.oldest_enqueued.Add({}).Set(time == absl::InfinitePast() ? 0 : Unix(time));
}

void Metrics::Ready(bool accepting) { impl_->families_.ready.Add({}).Set(accepting ? 1 : 0); }

void Metrics::JobOnDevice(const v1::Job& job) {
  std::lock_guard lock(impl_->mutex_);
  JobSeries& series = impl_->jobs_[job.name()];
  series.remove_at = absl::InfiniteFuture();
  series.peak = 0;
  if (!series.gauges.contains("info")) {
    prometheus::Gauge& info = impl_->families_.job_info.Add(
        {{"job_id", JobId(job.name())},
         {"name", job.display_name()},
         {"method", job.spec().has_sft()   ? "sft"
                    : job.spec().has_dpo() ? "dpo"
                    : job.spec().has_kto() ? "kto"
                                           : "grpo"},
         {"base_model", job.spec().base_model().substr(job.spec().base_model().rfind('/') + 1)}});
    info.Set(1);
    series.gauges["info"] = &info;
    series.removers.push_back([this, &info] { impl_->families_.job_info.Remove(&info); });
  }
  const v1::MemoryEstimate& memory = job.memory();
  for (const auto& [component, bytes] : {std::pair{"weights", memory.weights_bytes()},
                                         std::pair{"adapter", memory.adapter_bytes()},
                                         std::pair{"gradients", memory.gradient_bytes()},
                                         std::pair{"optimizer", memory.optimizer_bytes()},
                                         std::pair{"activations", memory.activation_bytes()},
                                         std::pair{"logits", memory.logits_bytes()},
                                         std::pair{"kv_cache", memory.kv_cache_bytes()},
                                         std::pair{"runtime", memory.runtime_bytes()}}) {
    impl_->Set(&series, job.name(), impl_->families_.predicted_bytes, static_cast<double>(bytes),
               "component", component);
  }
}

void Metrics::JobOffDevice(const std::string& job) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) {
    series->remove_at = absl::Now() + impl_->options_.job_series_linger;
  }
}

void Metrics::Plan(const std::string& job, const internal::v1::WorkerPlan& plan) {
  std::lock_guard lock(impl_->mutex_);
  JobSeries* series = impl_->Find(job);
  if (series == nullptr) return;
  impl_->Set(series, job, impl_->families_.target_steps, static_cast<double>(plan.total_steps()));
  impl_->Set(series, job, impl_->families_.train_step, static_cast<double>(plan.first_step()));
}

void Metrics::Step(const std::string& job, const internal::v1::WorkerStep& step) {
  std::lock_guard lock(impl_->mutex_);
  JobSeries* s = impl_->Find(job);
  if (s == nullptr) return;
  Families& f = impl_->families_;
  const auto& values = step.values();
  impl_->Set(s, job, f.train_step, static_cast<double>(step.step()));
  impl_->Set(s, job, f.last_step_time, Unix(absl::Now()));
  impl_->Set(s, job, f.train_loss, Value(values, "loss"));
  impl_->Set(s, job, f.learning_rate, Value(values, "learning_rate"));
  impl_->Set(s, job, f.gradient_norm, Value(values, "grad_norm"));
  impl_->Add(s, job, f.nonfinite_steps, 0);
  // The worker reports running totals, which fall back when it resumes from a checkpoint.
  const double tokens = Value(values, "num_tokens"), trained = Value(values, "trained_tokens");
  const double more_trained = std::max(0.0, trained - s->trained);
  impl_->Add(s, job, f.tokens, more_trained, "kind", "trained");
  impl_->Add(s, job, f.tokens, std::max(0.0, tokens - s->tokens - more_trained), "kind", "masked");
  impl_->Add(s, job, f.tokens, 0, "kind", "padding");
  s->tokens = tokens;
  s->trained = trained;
  impl_->Add(s, job, f.flops, Value(values, "flops"));
  s->peak = std::max(s->peak, Value(values, "memory_peak_bytes"));
  impl_->Set(s, job, f.peak_bytes, s->peak);
}

void Metrics::Eval(const std::string& job, const internal::v1::WorkerStep& eval) {
  std::lock_guard lock(impl_->mutex_);
  JobSeries* series = impl_->Find(job);
  if (series == nullptr || !eval.values().contains("eval_loss")) return;
  impl_->Set(series, job, impl_->families_.eval_loss, eval.values().at("eval_loss"));
}

void Metrics::Checkpoint(const std::string& job, absl::Time time) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* s = impl_->Find(job)) impl_->Set(s, job, impl_->families_.last_checkpoint_time, Unix(time));
}

void Metrics::Warning(const std::string& job, const std::string& code) {
  if (code == "CHECKPOINT_DAMAGED") impl_->CheckpointFailures("read", "damaged").Increment();
  if (code != "NON_FINITE_GRADIENT") return;
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) impl_->Add(series, job, impl_->families_.nonfinite_steps, 1);
}

void Metrics::OutOfMemory() {
  impl_->families_.out_of_memory.Add(kFatalOutOfMemory).Increment();
}

void Metrics::AttemptMemory(const std::string& job, int64_t predicted_bytes) {
  std::lock_guard lock(impl_->mutex_);
  const JobSeries* series = impl_->Find(job);
  if (series == nullptr || series->peak <= 0 || predicted_bytes <= 0) return;
  impl_->prediction_ratio_.Observe(series->peak / static_cast<double>(predicted_bytes));
}

void Metrics::Device(const internal::v1::WorkerHello& hello, int64_t budget_bytes) {
  std::lock_guard lock(impl_->mutex_);
  impl_->SetBuildInfo(hello.cuda_version(), hello.libtorch_version());
  impl_->gpus_.Worker(hello, budget_bytes);
}

void Metrics::Heartbeat(const internal::v1::WorkerHeartbeat& beat) {
  std::lock_guard lock(impl_->mutex_);
  impl_->gpus_.Heartbeat(beat);
}

void Metrics::Gpus(const std::vector<GpuReading>& readings, absl::Time now) {
  std::lock_guard lock(impl_->mutex_);
  impl_->gpus_.Read(readings, now);
}

void Metrics::RewardBatch(const std::string& result, absl::Duration took) {
  impl_->families_.reward_batches.Add({{"result", result}}).Increment();
  if (result == "ok") impl_->reward_duration_.Observe(absl::ToDoubleSeconds(took));
}

void Metrics::RewardWorkers(size_t attached) {
  impl_->families_.reward_workers.Add({}).Set(static_cast<double>(attached));
}

std::vector<GpuReading> Metrics::LatestGpus(absl::Time now) const {
  std::lock_guard lock(impl_->mutex_);
  return impl_->gpus_.Latest(now);
}

void Metrics::JournalSync(double seconds) { impl_->journal_sync_.Observe(seconds); }

void Metrics::Refresh(absl::Time now) {
  struct statvfs info = {};
  if (statvfs(impl_->options_.state_dir.c_str(), &info) == 0) {
    const auto block = static_cast<double>(info.f_frsize);
    impl_->families_.storage_free.Add({}).Set(block * static_cast<double>(info.f_bavail));
    impl_->families_.storage_size.Add({}).Set(block * static_cast<double>(info.f_blocks));
  }
  std::lock_guard lock(impl_->mutex_);
  impl_->gpus_.DropStale(now);
  std::vector<std::string> old;
  for (const auto& [job, series] : impl_->jobs_) {
    if (series.remove_at <= now) old.push_back(job);
  }
  for (const std::string& job : old) impl_->Drop(job);
}

void Metrics::WatchOpened() { impl_->families_.watch_streams.Add({}).Increment(); }

void Metrics::WatchClosed(const std::string& reason) {
  impl_->families_.watch_streams.Add({}).Decrement();
  if (!reason.empty()) impl_->families_.watch_closed.Add({{"reason", reason}}).Increment();
}

}  // namespace finetuned::metrics
