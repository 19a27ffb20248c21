#include "server/api/reward_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/spec/nearest.h"
#include "server/queue/state_machine.h"

namespace finetuned::api {

RewardStream::RewardStream(const Front& front, grpc::CallbackServerContext* context) : front_(front) {
  const auto caller = front.authenticator->Identify(*context);
  if (!caller.ok()) {
    End(caller.status());
    return;
  }
  caller_ = *caller;
  StartRead(&incoming_);
}

void RewardStream::Send(v1::RewardDispatch message) {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  outgoing_.push_back(std::move(message));
  if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
}

void RewardStream::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  outgoing_.pop_front();
  if (!ok) outgoing_.clear();
  if (!outgoing_.empty() && !finished_) StartWrite(&outgoing_.front());
}

void RewardStream::OnReadDone(bool ok) {
  // The client has closed its half: what it was leased goes to others.
  if (!ok) return End(absl::OkStatus());
  front_.shared->quick.Continue([this] { Take(); });
}

void RewardStream::Take() {
  const absl::Status status = Guarded([this] {
    if (worker_ != 0) return front_.shared->daemon.jobs->rewards().Message(worker_, incoming_);
    if (!incoming_.has_hello()) return absl::InvalidArgumentError("the first message must be hello");
    const Access& access = front_.shared->access;
    absl::Status allowed = access.Check(caller_, incoming_.hello());
    if (allowed.ok() && incoming_.hello().job().empty()) {
      allowed = access.CheckAdmin(caller_, "a reward worker for every job");
    }
    return allowed.ok() ? Hello(incoming_.hello()) : allowed;
  });
  if (!status.ok()) return End(status);
  incoming_.Clear();
  std::lock_guard lock(mutex_);
  if (!finished_) StartRead(&incoming_);
}

absl::Status RewardStream::Hello(const v1::RewardHello& hello) {
  jobs::JobManager& jobs = *front_.shared->daemon.jobs;
  if (!hello.job().empty()) {
    const auto job = jobs.GetJob(hello.job());
    if (!job.ok()) return job.status();
    const auto& wanted = job->resolved_spec().grpo().remote_reward().reward_names();
    if (wanted.empty()) {
      return WrongState(hello.job(), "NO_REMOTE_REWARDS",
                        absl::StrCat(hello.job(), " computes no rewards outside (grpo.remote_reward)"));
    }
    const std::vector<std::string> served(hello.reward_names().begin(), hello.reward_names().end());
    for (const std::string& name : wanted) {
      if (std::find(served.begin(), served.end(), name) != served.end()) continue;
      const std::string near = spec::Nearest(name, served);
      return InvalidField("hello.reward_names",
                          absl::StrCat(hello.job(), " needs the reward \"", name, "\"; this worker serves ",
                                       absl::StrJoin(served, ", "),
                                       near.empty() ? "" : absl::StrCat("; is ", near, " meant?")));
    }
    if (queue::IsTerminal(job->state())) {
      JobEnded();
      return absl::OkStatus();
    }
  }
  auto worker = jobs.rewards().Attach(hello, this);
  if (!worker.ok()) return worker.status();
  worker_ = *worker;
  return absl::OkStatus();
}

void RewardStream::OnCancel() { End(absl::CancelledError("the reward worker left")); }

void RewardStream::End(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
  }
  Finish(ToGrpc(status));
}

void RewardStream::OnDone() {
  if (worker_ != 0) front_.shared->daemon.jobs->rewards().Detach(worker_);
  delete this;
}

}  // namespace finetuned::api
