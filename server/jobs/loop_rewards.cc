// Rewards computed outside: questions of the worker, reward workers that come and go.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/config/log.h"
#include "server/jobs/loop.h"

namespace finetuned::jobs {

rewards::RewardHub::Host JobManager::Loop::RewardHost() {
  rewards::RewardHub::Host host;
  host.answer = [this](const internal::v1::RewardAnswer& answer) { backend_->Reward(answer); };
  host.worker_lost = [this](const std::string& job, absl::Duration waited) {
    Post([this, job, waited] {
      const queue::Input input = queue::RewardWorkerLost{
          job, absl::StrCat("no reward worker was attached for ", absl::FormatDuration(absl::Trunc(waited, absl::Seconds(1))),
                            "; it goes on when one attaches")};
      TakeQuietly(input).IgnoreError();  // when it cannot be stored, the questions stay and it is told again
    });
  };
  host.attached = [this](const v1::RewardHello& hello) {
    Post([this, hello] { RewardWorkerAttached(hello); });
  };
  host.measured = [this](const std::string& result, absl::Duration took) { metrics_->RewardBatch(result, took); };
  return host;
}

void JobManager::Loop::TakeQuestion(const internal::v1::RewardQuestion& question) {
  const auto found = live_.find(question.job());
  // Of a job that has ended or was handed on meanwhile: late, not wrong.
  if (found == live_.end() || question.job() != scheduler_.holder()) return;
  rewards_.Ask(question, found->second.job.resolved_spec().grpo().remote_reward());
}

void JobManager::Loop::RewardWorkerAttached(const v1::RewardHello& hello) {
  LogInfo(absl::StrCat("reward worker ", hello.worker_id(), " attached",
                       hello.job().empty() ? "" : absl::StrCat(" for ", hello.job())));
  std::vector<std::string> names;
  for (const auto& [name, record] : live_) {
    const v1::Job& job = record.job;
    if (job.state() != v1::PAUSED || job.state_reason() != v1::WAITING_FOR_REWARD_WORKER) continue;
    if (rewards_.Serves(name, job.resolved_spec().grpo().remote_reward())) names.push_back(name);
  }
  for (const std::string& name : names) TakeQuietly(queue::RewardWorkerFound{name}).IgnoreError();
}

void JobManager::Loop::PausedForRewards(const v1::Job& job) {
  if (!rewards_.Serves(job.name(), job.resolved_spec().grpo().remote_reward())) return;
  inbox_.push_back([this, name = job.name()] {
    const queue::Input input = queue::RewardWorkerFound{name};
    return Transact(&input);
  });
}

}  // namespace finetuned::jobs
