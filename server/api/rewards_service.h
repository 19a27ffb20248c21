#pragma once

#include "finetuned/v1/rewards.grpc.pb.h"
#include "server/api/front.h"
#include "server/api/unavailable.h"

namespace finetuned::api {

// finetuned.v1.Rewards: part of the API, served from the version on that can generate.
class RewardsService final : public v1::Rewards::CallbackService {
 public:
  explicit RewardsService(const Front& front) : front_(front) {}

  using Context = grpc::CallbackServerContext;
  using Worker = grpc::ServerBidiReactor<v1::RewardWorkerMessage, v1::RewardDispatch>;

  Worker* AttachRewardWorker(Context* context) override {
    return new Refused<Worker>(front_, context, Later("AttachRewardWorker"));
  }
  grpc::ServerUnaryReactor* EvaluateReward(Context* context, const v1::EvaluateRewardRequest*,
                                           v1::EvaluateRewardResponse*) override {
    return Unary(front_, context, front_.shared->quick,
                 [](const auth::Caller&) { return Later("EvaluateReward"); });
  }

 private:
  static absl::Status Later(const char* call) {
    return NotAvailable(call, "rewards arrive with generation (not in this version)");
  }

  const Front front_;
};

}  // namespace finetuned::api
