#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include "absl/time/time.h"
#include "finetuned/v1/events.pb.h"
#include "server/api/front.h"
#include "server/api/watch_token.h"
#include "server/jobs/subscription.h"

namespace finetuned::api {

// Field number of an event payload by the name a client uses ("metrics"); nothing for unknown names.
std::optional<int> EventKind(const std::string& name);
std::string EventKindNames();  // "state_changed, metrics, ..."

// Which events of a job one watcher gets. Plain logic, no threads.
class WatchFilter {
 public:
  WatchFilter(std::set<int> kinds, absl::Duration metric_interval)
      : kinds_(std::move(kinds)), metric_interval_(metric_interval) {}
  // Terminal state changes always pass; metrics within `metric_interval` (of event time) after the last
  // one that passed do not; everything else passes when its kind was asked for.
  bool Passes(const v1::Event& event);
  bool WantsHeartbeats() const { return kinds_.empty() || kinds_.contains(v1::Event::kHeartbeat); }

 private:
  const std::set<int> kinds_;  // empty: all
  const absl::Duration metric_interval_;
  absl::Time last_metrics_ = absl::InfinitePast();
};

// One WatchJob call. Waits for nothing: the subscription's signal, a finished write or a timer posts the
// next pull to the pool. Lives until gRPC says done and the last posted task has run.
class WatchStream final : public grpc::ServerWriteReactor<v1::WatchJobResponse>,
                          public std::enable_shared_from_this<WatchStream> {
 public:
  static constexpr absl::Duration kHeartbeat = absl::Seconds(15);
  static constexpr absl::Duration kSlowConsumer = absl::Minutes(5);  // one write takes this long: give up

  // The reactor of the call; gRPC calls it from here on.
  static WatchStream* Start(const Front& front, grpc::CallbackServerContext* context,
                            const v1::WatchJobRequest& request);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  WatchStream(const Front& front, grpc::CallbackServerContext* context, const v1::WatchJobRequest& request)
      : front_(front), context_(context), request_(request) {}
  absl::Status Open();          // on the pool: token, subscription
  void Post();                  // Pump on the pool, unless it is already on its way
  void Pump();                  // on the pool: pull, then write, wait or end
  void Take(v1::Event event);   // under mutex_
  void SendNext();              // starts a write, or ends the call, where it is time
  void ArmHeartbeat();
  void OnHeartbeatTimer();
  void End(const absl::Status& status);

  const Front front_;
  grpc::CallbackServerContext* const context_;
  const v1::WatchJobRequest request_;
  std::shared_ptr<WatchStream> self_;            // until OnDone
  std::shared_ptr<jobs::Subscription> subscription_;  // set once, before the first pull

  std::mutex mutex_;                             // guards all below
  std::optional<WatchFilter> filter_;
  WatchToken token_;                             // of the last event looked at
  int64_t expected_ = 0;                         // sequence that comes next; 0: any
  std::deque<v1::WatchJobResponse> outgoing_;    // front: being written when writing_
  bool opened_ = false;                          // Open succeeded: writes and the end may come
  bool writing_ = false;
  bool pumping_ = false;                         // a Pump is posted or running
  bool again_ = false;                           // something happened meanwhile
  bool cancelled_ = false;
  bool finished_ = false;                        // Finish was called
  std::optional<absl::Status> ending_;           // after what is in outgoing_
  int64_t last_step_ = 0;
  absl::Time last_sent_ = absl::Now();
  grpc::Alarm heartbeat_;
};

}  // namespace finetuned::api
