#include "server/api/watch_stream.h"

#include <google/protobuf/util/time_util.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/spec/nearest.h"
#include "server/api/names.h"
#include "server/queue/state_machine.h"

namespace finetuned::api {
namespace {

using google::protobuf::util::TimeUtil;

constexpr int kPull = 64;               // events taken at once
constexpr uint32_t kLogEpoch = 1;

const std::vector<std::pair<std::string, int>>& Kinds() {
  static const auto* const kKinds = new std::vector<std::pair<std::string, int>>{
      {"state_changed", v1::Event::kStateChanged}, {"metrics", v1::Event::kMetrics},
      {"checkpoint", v1::Event::kCheckpoint},      {"log", v1::Event::kLog},
      {"eval", v1::Event::kEval},                  {"sample", v1::Event::kSample},
      {"warning", v1::Event::kWarning},            {"heartbeat", v1::Event::kHeartbeat},
      {"planned", v1::Event::kPlanned}};
  return *kKinds;
}

bool IsTerminalEvent(const v1::Event& event) {
  return event.has_state_changed() && queue::IsTerminal(event.state_changed().to());
}

absl::Time TimeOf(const v1::Event& event) { return absl::FromUnixNanos(TimeUtil::TimestampToNanoseconds(event.time())); }

absl::StatusOr<std::set<int>> ParseKinds(const v1::WatchJobRequest& request) {
  std::set<int> kinds;
  for (int i = 0; i < request.types_size(); ++i) {
    const std::optional<int> kind = EventKind(request.types(i));
    if (!kind.has_value()) {
      return InvalidField(absl::StrCat("types[", i, "]"),
                          absl::StrCat("got \"", request.types(i).substr(0, 50), "\"; allowed: ", EventKindNames()));
    }
    kinds.insert(*kind);
  }
  return kinds;
}

// "" for an end that the client or the job brought about.
std::string CloseReason(const absl::Status& status) {
  return status.ok() || absl::IsCancelled(status) ? "" : absl::StatusCodeToString(status.code());
}

}  // namespace

std::optional<int> EventKind(const std::string& name) {
  for (const auto& [known, number] : Kinds()) {
    if (known == name) return number;
  }
  return std::nullopt;
}

std::string EventKindNames() {
  return absl::StrJoin(Kinds(), ", ", [](std::string* out, const auto& kind) { absl::StrAppend(out, kind.first); });
}

bool WatchFilter::Passes(const v1::Event& event) {
  if (IsTerminalEvent(event)) return true;
  if (!kinds_.empty() && !kinds_.contains(event.payload_case())) return false;
  if (!event.has_metrics()) return true;
  const absl::Time time = TimeOf(event);
  if (time < last_metrics_ + metric_interval_) return false;
  last_metrics_ = time;
  return true;
}

WatchStream* WatchStream::Start(const Front& front, grpc::CallbackServerContext* context,
                                const v1::WatchJobRequest& request) {
  auto stream = std::shared_ptr<WatchStream>(new WatchStream(front, context, request));
  stream->self_ = stream;
  const int64_t watchers = ++front.shared->watchers;
  if (front.shared->daemon.metrics != nullptr) front.shared->daemon.metrics->WatchOpened();
  const auto caller = front.authenticator->Identify(*context);
  if (!caller.ok()) {
    stream->End(caller.status());
    return stream.get();
  }
  if (watchers > front.shared->daemon.config->limits.max_watchers) {
    stream->End(Busy("TOO_MANY_WATCHERS", absl::StrCat("there are ", watchers - 1, " watches already"),
                     std::chrono::seconds(5)));
    return stream.get();
  }
  stream->pumping_ = true;
  const bool taken = front.shared->quick.Submit([stream, caller = *caller] {
    const absl::Status opened = Guarded([&] {
      const absl::Status allowed = stream->front_.shared->access.Check(caller, stream->request_);
      return allowed.ok() ? stream->Open() : allowed;
    });
    if (!opened.ok()) return stream->End(opened);
    stream->ArmHeartbeat();
    stream->Pump();
  });
  if (!taken) stream->End(Unavailable("OVERLOADED", "too many calls wait", std::chrono::seconds(1)));
  return stream.get();
}

absl::Status WatchStream::Open() {
  const auto id = ParseName("jobs", request_.name());
  if (!id.ok()) return id.status();
  const auto kinds = ParseKinds(request_);
  if (!kinds.ok()) return kinds.status();
  const int64_t interval = TimeUtil::DurationToNanoseconds(request_.metric_interval());
  if (interval < 0) return InvalidField("metric_interval", "must not be negative");
  const jobs::Daemon& daemon = front_.shared->daemon;
  const auto job = daemon.jobs->GetJob(request_.name());
  if (!job.ok()) return job.status();
  WatchToken token{kLogEpoch, 0, job->uid()};
  if (!request_.resume_token().empty()) {
    const auto sent = DecodeWatchToken(request_.resume_token());
    if (!sent.ok()) return sent.status();
    if (sent->job_uid != job->uid()) return InvalidField("resume_token", "belongs to another job");
    const auto last = daemon.store->LastSequence(job->uid());
    if (!last.ok()) return last.status();
    if (sent->epoch != kLogEpoch || sent->sequence > *last) {
      return absl::OutOfRangeError("resume_token is of a history this daemon no longer has; watch without a token");
    }
    token = *sent;
  }
  const bool only_new = request_.from_now() && request_.resume_token().empty();
  auto subscription = daemon.jobs->Subscribe(request_.name(), only_new ? -1 : token.sequence);
  if (!subscription.ok()) return subscription.status();
  subscription_ = *std::move(subscription);
  if (only_new) token.sequence = subscription_->next_sequence() - 1;
  std::lock_guard<std::mutex> lock(mutex_);
  filter_.emplace(*kinds, absl::Nanoseconds(interval));
  expected_ = token.sequence + 1;
  token_ = std::move(token);
  opened_ = true;
  return absl::OkStatus();
}

void WatchStream::Post() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (pumping_) {
      again_ = true;
      return;
    }
    if (finished_) return;
    pumping_ = true;
  }
  front_.shared->quick.Continue([self = shared_from_this()] { self->Pump(); });
}

void WatchStream::Pump() {
  for (;;) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      again_ = false;
      if (finished_ || cancelled_ || ending_.has_value() || !outgoing_.empty()) {
        pumping_ = false;
        break;
      }
    }
    auto events = subscription_->Pull(kPull);
    const bool over = subscription_->finished();
    std::unique_lock<std::mutex> lock(mutex_);
    if (!events.ok()) {
      ending_ = events.status();
    } else if (!events->empty()) {
      for (v1::Event& event : *events) Take(std::move(event));
    } else if (over) {
      ending_ = subscription_->status();
    } else if (!again_) {
      pumping_ = false;
      lock.unlock();
      subscription_->OnReady([weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->Post();
      });
      break;
    }
  }
  SendNext();
}

void WatchStream::Take(v1::Event event) {
  if (event.sequence() == 0) {  // the worker's sign of life; the stream has its own rhythm
    last_step_ = event.heartbeat().step();
    return;
  }
  if (event.has_metrics()) last_step_ = event.metrics().step();
  if (expected_ > 0 && event.sequence() > expected_) {
    v1::WatchJobResponse gap;
    *gap.mutable_event()->mutable_time() = event.time();
    gap.mutable_event()->mutable_gap()->set_first_missing(expected_);
    gap.mutable_event()->mutable_gap()->set_last_missing(event.sequence() - 1);
    token_.sequence = event.sequence() - 1;
    gap.set_resume_token(EncodeWatchToken(token_));
    outgoing_.push_back(std::move(gap));
  }
  expected_ = event.sequence() + 1;
  token_.sequence = event.sequence();
  if (!filter_->Passes(event)) return;
  v1::WatchJobResponse& response = outgoing_.emplace_back();
  *response.mutable_event() = std::move(event);
  response.set_resume_token(EncodeWatchToken(token_));
}

void WatchStream::SendNext() {
  const v1::WatchJobResponse* next = nullptr;
  std::optional<absl::Status> end;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!opened_ || writing_ || finished_) return;
    if (cancelled_) {
      end = absl::CancelledError("the client ended the watch");
    } else if (!outgoing_.empty()) {
      writing_ = true;
      last_sent_ = absl::Now();
      next = &outgoing_.front();
    } else {
      end = ending_;
    }
  }
  if (next != nullptr) return StartWrite(next);
  if (end.has_value()) End(*end);
}

void WatchStream::OnWriteDone(bool ok) {
  bool empty = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    outgoing_.pop_front();
    cancelled_ |= !ok;
    empty = outgoing_.empty() && !ending_.has_value() && !cancelled_;
  }
  if (empty) return Post();
  SendNext();
}

void WatchStream::OnCancel() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
  }
  SendNext();
}

void WatchStream::End(const absl::Status& status) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    finished_ = true;
    heartbeat_.Cancel();
  }
  if (subscription_ != nullptr) subscription_->OnReady(nullptr);
  if (front_.shared->daemon.metrics != nullptr) front_.shared->daemon.metrics->WatchClosed(CloseReason(status));
  --front_.shared->watchers;
  Finish(ToGrpc(status));
}

void WatchStream::OnDone() { self_.reset(); }

void WatchStream::ArmHeartbeat() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (finished_) return;
  heartbeat_.Set(absl::ToChronoTime(absl::Now() + kHeartbeat / 3), [weak = weak_from_this()](bool ok) {
    if (const auto self = weak.lock(); self != nullptr && ok) self->OnHeartbeatTimer();
  });
}

void WatchStream::OnHeartbeatTimer() {
  bool stuck = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    const absl::Duration quiet = absl::Now() - last_sent_;
    stuck = writing_ && quiet > kSlowConsumer;
    if (!writing_ && outgoing_.empty() && !ending_.has_value() && quiet >= kHeartbeat && filter_->WantsHeartbeats()) {
      v1::WatchJobResponse& beat = outgoing_.emplace_back();
      *beat.mutable_event()->mutable_time() = TimeUtil::GetCurrentTime();
      beat.mutable_event()->mutable_heartbeat()->set_step(last_step_);
      beat.set_resume_token(EncodeWatchToken(token_));
    }
  }
  // It comes back with its token and reads on from the log; nothing waits for it here.
  if (stuck) context_->TryCancel();
  ArmHeartbeat();
  SendNext();
}

}  // namespace finetuned::api
