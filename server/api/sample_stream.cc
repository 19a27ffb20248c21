#include "server/api/sample_stream.h"

#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "server/api/sample_plan.h"
#include "server/metrics/metrics.h"

namespace finetuned::api {

// Between the scheduler's thread, which brings pieces, and gRPC, which takes one at a time.
class SampleStream::Sink : public jobs::SampleSink {
 public:
  Sink(SampleStream* stream, metrics::Metrics* metrics) : metrics_(metrics), stream_(stream) {}

  void OnPiece(const v1::SampleResponse& piece) override {
    std::lock_guard lock(mutex_);
    if (!std::exchange(answered_, true)) metrics_->SampleFirstToken(absl::Now() - asked_at_);
    waiting_.push_back(piece);
    Pump();
  }
  void OnDone(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
    Pump();
  }
  void Written(bool ok) {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      waiting_.clear();
      if (!end_) end_ = absl::CancelledError("the client is gone");
    }
    Pump();
  }
  void Detach() {
    std::lock_guard lock(mutex_);
    stream_ = nullptr;
  }
  // The worker has been asked. True: the client has left meanwhile.
  bool SetNumber(int64_t number) {
    std::lock_guard lock(mutex_);
    number_ = number;
    return cancelled_;
  }
  // The sample's number; 0: not known yet.
  int64_t Cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    return number_;
  }

 private:
  void Pump() {
    if (stream_ == nullptr || writing_ || finished_) return;
    if (!waiting_.empty()) {
      current_ = std::move(waiting_.front());
      waiting_.pop_front();
      writing_ = true;
      stream_->StartWrite(&current_);
    } else if (end_) {
      finished_ = true;
      stream_->Finish(ToGrpc(*end_));
    }
  }

  metrics::Metrics* const metrics_;
  const absl::Time asked_at_ = absl::Now();
  std::mutex mutex_;
  SampleStream* stream_;  // guarded by mutex_, like all below; null: the call is over
  std::deque<v1::SampleResponse> waiting_;
  v1::SampleResponse current_;
  bool writing_ = false, finished_ = false, cancelled_ = false, answered_ = false;
  int64_t number_ = 0;
  std::optional<absl::Status> end_;
};

// This object is gone soon after sink_ has had its end: whoever may bring that keeps the sink alive by itself.

SampleStream::SampleStream(const Front& front, grpc::CallbackServerContext* context,
                           const v1::SampleRequest& request)
    : front_(front), request_(request), sink_(std::make_shared<Sink>(this, front.shared->daemon.metrics)) {
  const std::shared_ptr<Sink> sink = sink_;
  const auto caller = front.authenticator->Identify(*context);
  if (!caller.ok()) {
    sink->OnDone(caller.status());
    return;
  }
  if (!front_.shared->slow.Submit([this, caller = *caller] { Begin(caller); })) {
    sink->OnDone(Unavailable("OVERLOADED", "too many calls wait", std::chrono::seconds(1)));
  }
}

void SampleStream::Begin(const auth::Caller& caller) {
  const std::shared_ptr<Sink> sink = sink_;
  jobs::JobManager* const jobs = front_.shared->daemon.jobs;
  absl::StatusOr<int64_t> number = absl::CancelledError("the client is gone");
  const absl::Status begun = Guarded([&] {
    if (absl::Status allowed = front_.shared->access.Check(caller, request_); !allowed.ok()) return allowed;
    auto sample = PlanSample(front_.shared, request_);
    if (!sample.ok()) return sample.status();
    number = jobs->Sample(*std::move(sample), sink);
    return number.status();
  });
  if (!begun.ok()) return sink->OnDone(begun);
  if (sink->SetNumber(*number)) jobs->CancelSample(*number);
}

void SampleStream::OnWriteDone(bool ok) {
  const std::shared_ptr<Sink> sink = sink_;
  sink->Written(ok);
}

void SampleStream::OnCancel() {
  const int64_t number = sink_->Cancel();
  if (number > 0) front_.shared->daemon.jobs->CancelSample(number);
}

void SampleStream::OnDone() {
  sink_->Detach();
  delete this;
}

}  // namespace finetuned::api
