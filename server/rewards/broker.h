#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/v1/rewards.pb.h"

// Who scores which completions. No I/O, no clock, no threads: inputs and the time go in, actions come out.
namespace finetuned::rewards {

// Completions that need scores: those of one group, as the engine asks.
struct Question {
  std::string job;                       // jobs/{job}; empty: a trial (EvaluateReward)
  std::string batch_id;                  // unique in the job
  int64_t step = 0;
  std::vector<std::string> reward_names; // every one is wanted
  std::vector<v1::RewardItem> items;     // not empty
  absl::Duration lease = absl::Seconds(60);  // for one worker; RewardProgress begins it anew
  absl::Duration grace = absl::Seconds(60);  // without any worker that serves the names
  int max_attempts = 3;                  // leases that ended without scores
};

// ---- actions
struct Send {
  int64_t worker = 0;
  v1::RewardDispatch message;
};
struct Answer {
  std::string job, batch_id;
  std::vector<v1::RewardScores> scores;  // one per name of the question, in its order
  absl::Status status;                   // not OK: no scores after all attempts
  absl::Duration took;                   // since the question
};
// Nobody served the job for its grace: it should leave the device. Told once, until a worker comes.
struct WorkerLost {
  std::string job;
  absl::Duration waited;
};
using Action = std::variant<Send, Answer, WorkerLost>;
using Actions = std::vector<Action>;

// What became of leases; each ends in one of these.
struct LeaseCounts {
  int64_t scored = 0, failed = 0, timed_out = 0, revoked = 0;
  int64_t late = 0;  // results that came after their lease: ignored
};

// Batches are leased to one attached worker at a time, and only against credits it granted. A lease that
// runs out, or whose worker goes, is given to another worker under lease_epoch + 1; results of an older
// epoch are ignored, so each batch is answered once. A worker that goes (a notebook that was closed) costs
// the batch no attempt; a lease that runs out and a result with an error or with the wrong number of values
// do. After max_attempts the answer is the last error.
class RewardBroker {
 public:
  // INVALID_ARGUMENT: no reward names, or a negative limit.
  absl::StatusOr<int64_t> Attach(const v1::RewardHello& hello);
  Actions Detach(int64_t worker, absl::Time now);
  // Credit, Progress or Result. INVALID_ARGUMENT: a message that makes no sense; the stream should end.
  absl::StatusOr<Actions> Message(int64_t worker, const v1::RewardWorkerMessage& message, absl::Time now);
  Actions Ask(Question question, absl::Time now);
  // The job has left the device: its questions are void.
  Actions Forget(const std::string& job);
  Actions Tick(absl::Time now);

  // When Tick has to be called next, at the latest.
  absl::Time NextDeadline() const;
  // Some attached worker would take such batches.
  bool Serves(const std::string& job, const std::vector<std::string>& names) const;
  // Workers that said this job in their hello.
  std::vector<int64_t> WorkersOf(const std::string& job) const;
  size_t workers() const { return workers_.size(); }
  const LeaseCounts& counts() const { return counts_; }

 private:
  struct Worker {
    v1::RewardHello hello;
    std::set<std::string> names;
    int64_t credits = 0;
    std::set<std::string> leased;  // batch ids as sent
  };
  struct Batch {
    Question question;
    std::string id;                // as sent: unique among all jobs
    int64_t epoch = 0;
    int attempts = 0;
    int64_t worker = 0;            // 0: waits
    absl::Time asked, expires;
  };

  static bool Takes(const Worker& worker, const Batch& batch);
  static bool Takes(const Worker& worker, const std::string& job, const std::vector<std::string>& names);
  static absl::Time Deadline(const Batch& batch);
  void Dispatch(absl::Time now, Actions* actions);
  void Lease(Batch* batch, int64_t worker_id, absl::Time now, Actions* actions);
  // Takes the batch from its worker and puts it in front of the queue.
  void EndLease(Batch* batch);
  void Revoke(const Batch& batch, const std::string& reason, Actions* actions) const;
  // An attempt without scores: once more, or the answer.
  void Failed(Batch* batch, absl::Status status, absl::Time now, Actions* actions);
  void TakeResult(int64_t worker, const v1::RewardResult& result, absl::Time now, Actions* actions);
  void Finish(const std::string& id, Answer answer, absl::Time now, Actions* actions);
  // Keeps unserved_ to the jobs that have questions and no worker.
  void WatchJobs(absl::Time now, Actions* actions);

  struct Unserved {
    absl::Time since, deadline;
    bool told = false;
  };
  int64_t last_worker_ = 0;
  std::map<int64_t, Worker> workers_;
  std::map<std::string, Batch> batches_;
  std::deque<std::string> waiting_;          // batch ids without a lease
  std::map<std::string, Unserved> unserved_; // by job
  LeaseCounts counts_;
};

}  // namespace finetuned::rewards
