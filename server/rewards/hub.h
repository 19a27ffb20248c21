#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "finetuned/internal/v1/worker.pb.h"
#include "finetuned/v1/spec.pb.h"
#include "server/rewards/broker.h"

namespace finetuned::rewards {

// The broker with streams, callers and the clock around it. Thread-safe.
class RewardHub {
 public:
  // An attached worker's stream. Called under the hub's lock: must only queue.
  class Sink {
   public:
    virtual ~Sink() = default;
    virtual void Send(v1::RewardDispatch message) = 0;
    virtual void JobEnded() = 0;  // the worker's only job has: the stream ends well
  };
  // Called without the hub's lock, on any thread; must not block.
  struct Host {
    std::function<void(const internal::v1::RewardAnswer&)> answer;     // to the engine
    std::function<void(const std::string& job, absl::Duration waited)> worker_lost;
    std::function<void(const v1::RewardHello&)> attached;
    // How a lease ended: "ok" (with the time since the question), "error", "timeout".
    std::function<void(const std::string& result, absl::Duration took)> measured;
  };
  using Trial = std::function<void(absl::StatusOr<std::vector<double>>)>;

  explicit RewardHub(Host host) : host_(std::move(host)) {}

  // `sink` is used until Detach returns. INVALID_ARGUMENT as RewardBroker::Attach.
  absl::StatusOr<int64_t> Attach(const v1::RewardHello& hello, Sink* sink);
  void Detach(int64_t worker);
  absl::Status Message(int64_t worker, const v1::RewardWorkerMessage& message);

  // From the engine, with the job's settings (defaults filled in).
  void Ask(const internal::v1::RewardQuestion& question, const v1::RemoteReward& settings);
  void Forget(const std::string& job);
  // The job has ended for good: workers that serve only it are sent home.
  void JobEnded(const std::string& job);
  bool Serves(const std::string& job, const v1::RemoteReward& settings) const;

  // Has `name` of an attached worker score the items; `done` is called once, perhaps at once.
  // FAILED_PRECONDITION: nobody serves it. The answer takes at most about a minute.
  void Evaluate(const std::string& name, std::vector<v1::RewardItem> items, Trial done);

  void Tick(absl::Time now);
  absl::Time NextDeadline() const;
  size_t workers() const;
  LeaseCounts counts() const;

 private:
  // Sends under the lock; gives back what is to be called after it.
  std::vector<std::function<void()>> Execute(Actions actions);
  static internal::v1::RewardAnswer ToProto(const Answer& answer);
  static void Call(const std::vector<std::function<void()>>& calls);

  const Host host_;
  mutable std::mutex mutex_;
  RewardBroker broker_;             // guarded by mutex_, like all below
  std::map<int64_t, Sink*> sinks_;
  std::map<std::string, Trial> trials_;
  int64_t last_trial_ = 0;
};

}  // namespace finetuned::rewards
