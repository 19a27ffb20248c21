#pragma once

#include "finetuned/v1/rewards.grpc.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// finetuned.v1.Rewards.
class RewardsService final : public v1::Rewards::CallbackService {
 public:
  explicit RewardsService(const Front& front) : front_(front) {}

  using Context = grpc::CallbackServerContext;
  grpc::ServerBidiReactor<v1::RewardWorkerMessage, v1::RewardDispatch>* AttachRewardWorker(
      Context* context) override;
  grpc::ServerUnaryReactor* EvaluateReward(Context* context, const v1::EvaluateRewardRequest* request,
                                           v1::EvaluateRewardResponse* response) override;

 private:
  const Front front_;
};

}  // namespace finetuned::api
