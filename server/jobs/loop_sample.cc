// Generation outside of jobs, on the scheduler's thread. The worker generates only while no job has it: a job that
// starts ends every sample.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/jobs/errors.h"
#include "server/jobs/loop.h"

namespace finetuned::jobs {
namespace {

constexpr size_t kMostSamples = 16;  // at the worker, which takes them one after another
constexpr int kRetrySeconds = 30;

}  // namespace

absl::Status JobManager::Loop::WhyBusy() const {
  return DeviceBusy(absl::StrCat(scheduler_.holder(),
                                 " is using the device; generation works while no job runs: wait for it, or pause it"),
                    kRetrySeconds);
}

absl::StatusOr<int64_t> JobManager::Loop::Sample(internal::v1::RunSample sample, std::shared_ptr<SampleSink> sink) {
  if (scheduler_.draining()) return Draining();
  if (!scheduler_.holder().empty()) return WhyBusy();
  if (samples_.size() >= kMostSamples) {
    return ErrorWithInfo(absl::StatusCode::kResourceExhausted,
                         absl::StrCat(samples_.size(), " calls of Sample wait already; try again"), "TOO_MANY_SAMPLES");
  }
  if (scheduler_.worker() == queue::WorkerState::kStopped) {
    if (absl::Status status = TakeQuietly(queue::Prestart{}); !status.ok()) return status;
    PublishView();
  }
  if (scheduler_.worker() == queue::WorkerState::kStopping) {
    return DeviceBusy("the worker is leaving and will be started anew; try again", /*retry_seconds=*/2);
  }
  sample.set_id(++last_sample_);
  samples_[sample.id()] = std::move(sink);
  const int64_t id = sample.id();
  waiting_samples_.push_back(std::move(sample));
  if (scheduler_.worker() == queue::WorkerState::kIdle) SendWaitingSamples();
  return id;
}

void JobManager::Loop::SendWaitingSamples() {
  if (scheduler_.worker() != queue::WorkerState::kIdle) return;
  for (const internal::v1::RunSample& sample : waiting_samples_) backend_->Sample(sample);
  waiting_samples_.clear();
}

void JobManager::Loop::CancelSample(int64_t id) {
  const auto found = samples_.find(id);
  if (found == samples_.end()) return;
  const std::shared_ptr<SampleSink> sink = std::move(found->second);
  samples_.erase(found);
  const size_t waited =
      std::erase_if(waiting_samples_, [id](const internal::v1::RunSample& sample) { return sample.id() == id; });
  if (waited == 0) backend_->CancelSample(id);
  sink->OnDone(absl::CancelledError("the call was cancelled"));
}

void JobManager::Loop::TakeSample(const internal::v1::SamplePiece& piece) {
  alive_ = true;
  const auto found = samples_.find(piece.id());
  if (found == samples_.end()) return;  // cancelled meanwhile
  const std::shared_ptr<SampleSink> sink = found->second;
  if (piece.has_piece()) sink->OnPiece(piece.piece());
  if (!piece.done()) return;
  samples_.erase(found);
  sink->OnDone(absl::Status(static_cast<absl::StatusCode>(piece.error().code()), piece.error().message()));
}

void JobManager::Loop::EndSamples(const absl::Status& status) {
  waiting_samples_.clear();
  for (const auto& [id, sink] : std::exchange(samples_, {})) {
    backend_->CancelSample(id);
    sink->OnDone(status);
  }
}

}  // namespace finetuned::jobs
