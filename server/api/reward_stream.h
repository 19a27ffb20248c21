#pragma once

#include <deque>
#include <mutex>

#include <grpcpp/grpcpp.h>

#include "finetuned/v1/rewards.pb.h"
#include "server/api/front.h"
#include "server/rewards/hub.h"

namespace finetuned::api {

// One AttachRewardWorker call: hello first, then credits, progress and results in, batches and revocations
// out. Reads and writes do not wait for each other. Ends with an error for a message that makes no sense;
// what was leased to it then goes to another worker. Deletes itself.
class RewardStream final : public grpc::ServerBidiReactor<v1::RewardWorkerMessage, v1::RewardDispatch>,
                           public rewards::RewardHub::Sink {
 public:
  RewardStream(const Front& front, grpc::CallbackServerContext* context);

  void Send(v1::RewardDispatch message) override;
  void JobEnded() override { End(absl::OkStatus()); }
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Take();                                // on the pool: the message read
  absl::Status Hello(const v1::RewardHello& hello);
  void End(const absl::Status& status);

  const Front front_;
  auth::Caller caller_;
  v1::RewardWorkerMessage incoming_;
  int64_t worker_ = 0;                        // touched by reads only; 0: no hello yet
  std::mutex mutex_;
  std::deque<v1::RewardDispatch> outgoing_;   // guarded by mutex_; front: being written
  bool finished_ = false;                     // guarded by mutex_
};

}  // namespace finetuned::api
