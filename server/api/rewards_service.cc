#include "server/api/rewards_service.h"

#include <cmath>
#include <future>

#include "absl/strings/str_cat.h"
#include "engine/reward/reward_set.h"
#include "server/api/reward_stream.h"
#include "server/jobs/record.h"

namespace finetuned::api {
namespace {

constexpr int kMostItems = 4096;

absl::Status CheckItems(const v1::EvaluateRewardRequest& request) {
  if (request.items().empty()) return InvalidField("items", "is empty; send at least one completion");
  if (request.items_size() > kMostItems) {
    return InvalidField("items", absl::StrCat("has ", request.items_size(), " completions; the limit is ", kMostItems));
  }
  return absl::OkStatus();
}

void AddValue(double value, const std::string& abstained, v1::EvaluateRewardResponse* response) {
  response->add_values(value);
  google::rpc::Status* error = response->add_errors();
  if (!abstained.empty()) *error = ToRpcStatus(absl::FailedPreconditionError(abstained));
}

absl::Status EvaluateBuiltin(const v1::EvaluateRewardRequest& request, v1::EvaluateRewardResponse* response) {
  const v1::BuiltinReward& wanted = request.builtin();
  auto made = reward::MakeReward(wanted.name(), {wanted.args().begin(), wanted.args().end()});
  if (!made.ok()) return InvalidField("builtin", std::string(made.status().message()));
  for (const v1::RewardItem& item : request.items()) {
    const std::map<std::string, std::string> columns(item.columns().begin(), item.columns().end());
    const reward::Score score =
        (*made)->Evaluate({item.completion(), item.completion_tokens_size(), item.truncated(), &columns});
    AddValue(score.value, score.abstained, response);
  }
  return absl::OkStatus();
}

absl::Status EvaluateRemote(rewards::RewardHub& hub, const v1::EvaluateRewardRequest& request,
                            v1::EvaluateRewardResponse* response) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<std::vector<double>>>>();
  auto answer = promise->get_future();
  hub.Evaluate(request.remote(), {request.items().begin(), request.items().end()},
               [promise](absl::StatusOr<std::vector<double>> values) { promise->set_value(std::move(values)); });
  const absl::StatusOr<std::vector<double>> values = answer.get();
  if (!values.ok()) return values.status();
  for (const double value : *values) AddValue(value, std::isnan(value) ? "the reward abstained" : "", response);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerBidiReactor<v1::RewardWorkerMessage, v1::RewardDispatch>* RewardsService::AttachRewardWorker(
    Context* context) {
  return new RewardStream(front_, context);
}

grpc::ServerUnaryReactor* RewardsService::EvaluateReward(Context* context, const v1::EvaluateRewardRequest* request,
                                                         v1::EvaluateRewardResponse* response) {
  // The slow pool: the answer may be a worker's.
  return Unary(front_, context, front_.shared->slow, *request, [this, request, response](const auth::Caller& caller) {
    if (const absl::Status status = CheckItems(*request); !status.ok()) return status;
    const absl::Time start = absl::Now();
    absl::Status status;
    switch (request->reward_case()) {
      case v1::EvaluateRewardRequest::kBuiltin: status = EvaluateBuiltin(*request, response); break;
      case v1::EvaluateRewardRequest::kRemote:
        // The worker asked may be anybody's.
        status = front_.shared->access.CheckAdmin(caller, "EvaluateReward of remote rewards");
        if (!status.ok()) return status;
        status = EvaluateRemote(front_.shared->daemon.jobs->rewards(), *request, response);
        break;
      default: return InvalidField("reward", "builtin or remote is required");
    }
    *response->mutable_latency() = jobs::ToProto(absl::Now() - start);
    return status;
  });
}

}  // namespace finetuned::api
