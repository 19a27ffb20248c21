#include "server/metrics/metrics.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/spec/tools.h"
#include "server/metrics/families.h"
#include "server/metrics/gpu_series.h"
#include "server/metrics/job_series.h"
#include "server/metrics/storage_use.h"
#include "server/queue/state_machine.h"

namespace finetuned::metrics {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const prometheus::Labels kFatalOutOfMemory = {{"phase", "training"}, {"recovered", "false"}};
const prometheus::Labels kRecoveredOutOfMemory = {{"phase", "training"}, {"recovered", "true"}};

// From a blink to days.
Buckets Long() { return {1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600}; }
Buckets Short() { return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10}; }
Buckets Wait() { return {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}; }
Buckets Ratio() { return {0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25}; }

double Unix(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

}  // namespace

class Metrics::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)), registry_(std::make_shared<prometheus::Registry>()),
        families_(registry_.get()), queue_wait_(families_.queue_wait.Add({}, Long())),
        prediction_ratio_(families_.prediction_ratio.Add({}, Ratio())),
        journal_sync_(families_.journal_sync.Add({}, Short())),
        reward_duration_(families_.reward_duration.Add({}, Long())),
        first_token_(families_.first_token.Add({}, Wait())),
        storage_use_(std::make_shared<StorageUse>(options_.state_dir)), gpus_(&families_) {
    SetBuildInfo("", "");
    families_.ready.Add({});
    families_.oldest_enqueued.Add({});
    families_.preemptions.Add({});
    families_.watch_streams.Add({});
    families_.reward_workers.Add({});
    for (const char* result : {"ok", "error", "timeout"}) families_.reward_batches.Add({{"result", result}});
    families_.watch_closed.Add({{"reason", "slow_consumer"}});
    CheckpointFailures("read", "damaged");
    families_.out_of_memory.Add(kFatalOutOfMemory);
    families_.out_of_memory.Add(kRecoveredOutOfMemory);
    for (const std::string& method : spec::MethodNames()) {
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
    return found == jobs_.end() ? nullptr : found->second.get();
  }

  const Options options_;
  std::shared_ptr<prometheus::Registry> registry_;
  Families families_;
  prometheus::Histogram& queue_wait_;
  prometheus::Histogram& prediction_ratio_;
  prometheus::Histogram& journal_sync_;
  prometheus::Histogram& reward_duration_;
  prometheus::Histogram& first_token_;
  prometheus::Gauge* build_info_ = nullptr;
  std::shared_ptr<StorageUse> storage_use_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::mutex mutex_;
  GpuSeries gpus_;                         // guarded by mutex_
  std::map<std::string, std::unique_ptr<JobSeries>> jobs_;  // guarded by mutex_
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

void Metrics::JobPreempted() { impl_->families_.preemptions.Add({}).Increment(); }

void Metrics::OldestQueued(absl::Time time) {
  impl_->families_.oldest_enqueued.Add({}).Set(time == absl::InfinitePast() ? 0 : Unix(time));
}

void Metrics::Ready(bool accepting) { impl_->families_.ready.Add({}).Set(accepting ? 1 : 0); }

void Metrics::JobOnDevice(const v1::Job& job) {
  std::lock_guard lock(impl_->mutex_);
  std::unique_ptr<JobSeries>& series = impl_->jobs_[job.name()];
  if (series == nullptr) series = std::make_unique<JobSeries>(&impl_->families_, job.name());
  series->OnDevice(job);
}

void Metrics::JobOffDevice(const std::string& job) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) series->remove_at = absl::Now() + impl_->options_.job_series_linger;
}

void Metrics::Plan(const std::string& job, const internal::v1::WorkerPlan& plan) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) series->Plan(plan);
}

void Metrics::Step(const std::string& job, const internal::v1::WorkerStep& step) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) series->Step(step);
}

void Metrics::Eval(const std::string& job, const internal::v1::WorkerStep& eval) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) series->Eval(eval);
}

void Metrics::Checkpoint(const std::string& job, absl::Time time) {
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) series->Checkpoint(time);
}

void Metrics::Warning(const std::string& job, const std::string& code) {
  if (code == "CHECKPOINT_DAMAGED") impl_->CheckpointFailures("read", "damaged").Increment();
  if (code == "REPLANNED") impl_->families_.out_of_memory.Add(kRecoveredOutOfMemory).Increment();
  if (code != "NON_FINITE_GRADIENT") return;
  std::lock_guard lock(impl_->mutex_);
  if (JobSeries* series = impl_->Find(job)) series->SkippedStep();
}

void Metrics::OutOfMemory() {
  impl_->families_.out_of_memory.Add(kFatalOutOfMemory).Increment();
}

void Metrics::AttemptMemory(const std::string& job, int64_t predicted_bytes) {
  std::lock_guard lock(impl_->mutex_);
  const JobSeries* series = impl_->Find(job);
  if (series == nullptr || series->peak_bytes() <= 0 || predicted_bytes <= 0) return;
  impl_->prediction_ratio_.Observe(series->peak_bytes() / static_cast<double>(predicted_bytes));
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

void Metrics::SampleFirstToken(absl::Duration took) {
  impl_->first_token_.Observe(absl::ToDoubleSeconds(took));
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
  std::erase_if(impl_->jobs_, [&](const auto& entry) { return entry.second->remove_at <= now; });
}

void Metrics::WatchOpened() { impl_->families_.watch_streams.Add({}).Increment(); }

void Metrics::WatchClosed(const std::string& reason) {
  impl_->families_.watch_streams.Add({}).Decrement();
  if (!reason.empty()) impl_->families_.watch_closed.Add({{"reason", reason}}).Increment();
}

}  // namespace finetuned::metrics
