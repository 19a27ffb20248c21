#include "server/rewards/hub.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace finetuned::rewards {
namespace {

absl::Duration ToDuration(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

std::vector<std::string> Names(const v1::RemoteReward& settings) {
  return {settings.reward_names().begin(), settings.reward_names().end()};
}

}  // namespace

absl::StatusOr<int64_t> RewardHub::Attach(const v1::RewardHello& hello, Sink* sink) {
  absl::StatusOr<int64_t> worker;
  {
    std::lock_guard lock(mutex_);
    worker = broker_.Attach(hello);
    if (!worker.ok()) return worker;
    sinks_[*worker] = sink;
  }
  if (host_.attached) host_.attached(hello);
  return worker;
}

void RewardHub::Detach(int64_t worker) {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(mutex_);
    sinks_.erase(worker);
    calls = Execute(broker_.Detach(worker, absl::Now()));
  }
  Call(calls);
}

absl::Status RewardHub::Message(int64_t worker, const v1::RewardWorkerMessage& message) {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(mutex_);
    const int64_t failed = broker_.counts().failed;
    absl::StatusOr<Actions> actions = broker_.Message(worker, message, absl::Now());
    if (!actions.ok()) return actions.status();
    calls = Execute(*std::move(actions));
    if (host_.measured && broker_.counts().failed > failed) {
      calls.push_back([this] { host_.measured("error", absl::ZeroDuration()); });
    }
  }
  Call(calls);
  return absl::OkStatus();
}

void RewardHub::Ask(const internal::v1::RewardQuestion& said, const v1::RemoteReward& settings) {
  Question question;
  question.job = said.job();
  question.batch_id = said.batch_id();
  question.step = said.step();
  question.reward_names = Names(settings);
  question.items = {said.items().begin(), said.items().end()};
  question.lease = ToDuration(settings.batch_timeout());
  question.grace = ToDuration(settings.worker_grace());
  question.max_attempts = settings.max_attempts();
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(mutex_);
    calls = Execute(broker_.Ask(std::move(question), absl::Now()));
  }
  Call(calls);
}

void RewardHub::Forget(const std::string& job) {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(mutex_);
    calls = Execute(broker_.Forget(job));
  }
  Call(calls);
}

void RewardHub::JobEnded(const std::string& job) {
  std::lock_guard lock(mutex_);
  for (const int64_t worker : broker_.WorkersOf(job)) {
    const auto sink = sinks_.find(worker);
    if (sink != sinks_.end()) sink->second->JobEnded();
  }
}

bool RewardHub::Serves(const std::string& job, const v1::RemoteReward& settings) const {
  std::lock_guard lock(mutex_);
  return broker_.Serves(job, Names(settings));
}

void RewardHub::Evaluate(const std::string& name, std::vector<v1::RewardItem> items, Trial done) {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(mutex_);
    if (broker_.Serves("", {name})) {
      Question question;
      question.batch_id = absl::StrCat("trial/", ++last_trial_);
      question.reward_names = {name};
      question.items = std::move(items);
      question.max_attempts = 1;
      trials_[question.batch_id] = std::move(done);
      calls = Execute(broker_.Ask(std::move(question), absl::Now()));
      done = nullptr;
    }
  }
  Call(calls);
  if (done) {
    done(absl::FailedPreconditionError(
        absl::StrCat("no attached reward worker serves \"", name, "\"; start one and try again")));
  }
}

void RewardHub::Tick(absl::Time now) {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(mutex_);
    const int64_t timed_out = broker_.counts().timed_out;
    calls = Execute(broker_.Tick(now));
    const int64_t more = broker_.counts().timed_out - timed_out;
    for (int64_t i = 0; i < more && host_.measured; ++i) {
      calls.push_back([this] { host_.measured("timeout", absl::ZeroDuration()); });
    }
  }
  Call(calls);
}

absl::Time RewardHub::NextDeadline() const {
  std::lock_guard lock(mutex_);
  return broker_.NextDeadline();
}

size_t RewardHub::workers() const {
  std::lock_guard lock(mutex_);
  return broker_.workers();
}

LeaseCounts RewardHub::counts() const {
  std::lock_guard lock(mutex_);
  return broker_.counts();
}

std::vector<std::function<void()>> RewardHub::Execute(Actions actions) {
  std::vector<std::function<void()>> calls;
  for (Action& action : actions) {
    if (auto* send = std::get_if<Send>(&action)) {
      const auto sink = sinks_.find(send->worker);
      if (sink != sinks_.end()) sink->second->Send(std::move(send->message));
    } else if (auto* lost = std::get_if<WorkerLost>(&action)) {
      calls.push_back([this, lost = *lost] {
        if (host_.worker_lost) host_.worker_lost(lost.job, lost.waited);
      });
    } else {
      auto& answer = std::get<Answer>(action);
      if (answer.status.ok() && host_.measured) {
        calls.push_back([this, took = answer.took] { host_.measured("ok", took); });
      }
      if (!answer.job.empty()) {
        calls.push_back([this, proto = ToProto(answer)] { host_.answer(proto); });
        continue;
      }
      const auto trial = trials_.find(answer.batch_id);
      if (trial == trials_.end()) continue;
      absl::StatusOr<std::vector<double>> result = std::vector<double>();
      if (answer.status.ok()) {
        result->assign(answer.scores[0].values().begin(), answer.scores[0].values().end());
      } else {
        result = answer.status;
      }
      calls.push_back([done = std::move(trial->second), result = std::move(result)] { done(result); });
      trials_.erase(trial);
    }
  }
  return calls;
}

internal::v1::RewardAnswer RewardHub::ToProto(const Answer& answer) {
  internal::v1::RewardAnswer proto;
  proto.set_job(answer.job);
  proto.set_batch_id(answer.batch_id);
  for (const v1::RewardScores& scores : answer.scores) *proto.add_scores() = scores;
  if (!answer.status.ok()) {
    proto.mutable_error()->set_code(static_cast<int>(answer.status.code()));
    proto.mutable_error()->set_message(std::string(answer.status.message()));
  }
  return proto;
}

void RewardHub::Call(const std::vector<std::function<void()>>& calls) {
  for (const auto& call : calls) call();
}

}  // namespace finetuned::rewards
