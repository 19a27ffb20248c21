// What the driver says of the device, on the scheduler's thread.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/jobs/loop.h"
#include "server/jobs/record.h"

namespace finetuned::jobs {
namespace {

// A context outside of these was not measured: another process came or went meanwhile.
constexpr double kSmallestContext = 100e6, kLargestContext = 3e9;

// The device needs a reset, or the machine a restart: off the bus, uncorrectable memory, firmware that does not answer.
constexpr uint64_t kLostWithXid[] = {48, 79, 95, 119, 120};

std::string ContextKey(const internal::v1::WorkerHello& hello) {
  return absl::StrCat("device_context/", hello.device(), "/", hello.driver_version(), "/", hello.cuda_version(), "/",
                      hello.libtorch_version());
}

}  // namespace

std::map<uint64_t, int64_t> JobManager::Loop::CountXids() const {
  std::map<uint64_t, int64_t> counts;
  for (const metrics::GpuReading& gpu : metrics_->LatestGpus(absl::Now())) {
    for (const auto& [xid, count] : gpu.xid_errors) counts[xid] += count;
  }
  return counts;
}

void JobManager::Loop::LookForXids() {
  const auto holder = live_.find(scheduler_.holder());
  // What happened before the worker has the job is none of the job's.
  const bool runs = holder != live_.end() && holder->second.job.state() != v1::PREPARING;
  for (const auto& [xid, count] : CountXids()) {
    if (count <= std::exchange(xids_[xid], count) || !runs) continue;
    v1::Event event = NewEvent(holder->second.job, absl::Now());
    event.mutable_warning()->set_code("GPU_XID");
    event.mutable_warning()->set_text(absl::StrCat("the driver reported XID ", xid, "; look for NVRM in the kernel's log"));
    AddPending(&holder->second, std::move(event));
    flush_at_ = absl::Now();
    if (std::find(std::begin(kLostWithXid), std::end(kLostWithXid), xid) == std::end(kLostWithXid)) continue;
    TakeQuietly(queue::DeviceFailed{absl::StrCat("lost its GPU: the driver reported XID ", xid)}).IgnoreError();
  }
}

// What the driver says the worker holds, less what its allocator does.
void JobManager::Loop::MeasureContext(const internal::v1::WorkerHeartbeat& beat) {
  for (const metrics::GpuReading& gpu : metrics_->LatestGpus(absl::Now())) {
    const auto own = gpu.process_bytes.find(hello_.has_value() ? hello_->pid() : 0);
    if (own == gpu.process_bytes.end()) continue;
    const double context = own->second - static_cast<double>(beat.reserved_bytes());
    if (context < kSmallestContext || context > kLargestContext) continue;
    if (static_cast<int64_t>(context) <= context_bytes_) continue;
    context_bytes_ = static_cast<int64_t>(context);
    store_->PutValue(ContextKey(*hello_), absl::StrCat(context_bytes_)).IgnoreError();
  }
}

void JobManager::Loop::ReadContext() {
  const auto stored = store_->GetValue(ContextKey(*hello_));
  if (!stored.ok() || !absl::SimpleAtoi(*stored, &context_bytes_)) context_bytes_ = 0;
  context_bytes_ = std::max(context_bytes_, hello_->context_bytes());
}

}  // namespace finetuned::jobs
