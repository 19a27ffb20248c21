#include "server/rewards/broker.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace finetuned::rewards {
namespace {

constexpr int64_t kMostCredits = 1'000'000;

// The scores of a result in the order of the names; INVALID_ARGUMENT when some are missing.
absl::StatusOr<std::vector<v1::RewardScores>> ScoresOf(const v1::RewardResult& result, const Question& question) {
  std::vector<v1::RewardScores> scores;
  for (const std::string& name : question.reward_names) {
    const auto found = std::find_if(result.scores().begin(), result.scores().end(),
                                    [&](const auto& s) { return s.reward_name() == name; });
    if (found == result.scores().end()) {
      return absl::InvalidArgumentError(absl::StrCat("the result has no scores of ", name));
    }
    if (found->values_size() != static_cast<int>(question.items.size())) {
      return absl::InvalidArgumentError(absl::StrCat("reward ", name, " gave ", found->values_size(),
                                                     " values for ", question.items.size(), " completions"));
    }
    scores.push_back(*found);
  }
  return scores;
}

}  // namespace

absl::StatusOr<int64_t> RewardBroker::Attach(const v1::RewardHello& hello) {
  if (hello.reward_names().empty()) {
    return absl::InvalidArgumentError("hello.reward_names: is empty; say which rewards you serve");
  }
  if (hello.max_in_flight() < 0) return absl::InvalidArgumentError("hello.max_in_flight: must not be negative");
  Worker worker;
  worker.hello = hello;
  worker.names.insert(hello.reward_names().begin(), hello.reward_names().end());
  workers_[++last_worker_] = std::move(worker);
  return last_worker_;
}

Actions RewardBroker::Detach(int64_t worker, absl::Time now) {
  Actions actions;
  const auto found = workers_.find(worker);
  if (found == workers_.end()) return actions;
  const std::set<std::string> leased = found->second.leased;
  workers_.erase(found);
  for (const std::string& id : leased) {
    ++counts_.revoked;
    EndLease(&batches_.at(id));
  }
  Dispatch(now, &actions);
  return actions;
}

absl::StatusOr<Actions> RewardBroker::Message(int64_t worker_id, const v1::RewardWorkerMessage& message,
                                              absl::Time now) {
  Actions actions;
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return absl::NotFoundError("the worker is not attached");
  switch (message.message_case()) {
    case v1::RewardWorkerMessage::kCredit: {
      if (message.credit().batches() < 1) return absl::InvalidArgumentError("credit.batches: must be at least 1");
      found->second.credits = std::min(kMostCredits, found->second.credits + message.credit().batches());
      Dispatch(now, &actions);
      return actions;
    }
    case v1::RewardWorkerMessage::kProgress: {
      const auto batch = batches_.find(message.progress().batch_id());
      if (batch != batches_.end() && batch->second.worker == worker_id) {
        batch->second.expires = now + batch->second.question.lease;
      }
      return actions;
    }
    case v1::RewardWorkerMessage::kResult:
      TakeResult(worker_id, message.result(), now, &actions);
      return actions;
    default: return absl::InvalidArgumentError("after hello come credit, progress and result");
  }
}

Actions RewardBroker::Ask(Question question, absl::Time now) {
  Actions actions;
  Batch batch;
  batch.id = question.job.empty() ? question.batch_id : absl::StrCat(question.job, "/", question.batch_id);
  batch.asked = now;
  batch.question = std::move(question);
  const std::string id = batch.id;
  if (!batches_.emplace(id, std::move(batch)).second) return actions;  // asked already
  waiting_.push_back(id);
  Dispatch(now, &actions);
  return actions;
}

Actions RewardBroker::Forget(const std::string& job) {
  Actions actions;
  for (auto it = batches_.begin(); it != batches_.end();) {
    Batch& batch = it->second;
    if (batch.question.job != job) {
      ++it;
      continue;
    }
    if (batch.worker != 0) {
      ++counts_.revoked;
      Revoke(batch, "the job has left the device", &actions);
      EndLease(&batch);
    }
    std::erase(waiting_, batch.id);
    it = batches_.erase(it);
  }
  unserved_.erase(job);
  return actions;
}

Actions RewardBroker::Tick(absl::Time now) {
  Actions actions;
  std::vector<std::string> expired;
  for (const auto& [id, batch] : batches_) {
    if (Deadline(batch) <= now) expired.push_back(id);
  }
  for (const std::string& id : expired) {
    Batch& batch = batches_.at(id);
    if (batch.worker == 0) {
      Answer answer;
      answer.status = absl::DeadlineExceededError("the attached workers have no credit for another batch");
      Finish(id, std::move(answer), now, &actions);
      continue;
    }
    ++counts_.timed_out;
    Revoke(batch, "the lease ran out", &actions);
    EndLease(&batch);
    Failed(&batch,
           absl::DeadlineExceededError(
               absl::StrCat("no scores within ", absl::FormatDuration(batch.question.lease))),
           now, &actions);
  }
  Dispatch(now, &actions);
  return actions;
}

// The end of its lease; of a trial that nobody took, of the patience with it.
absl::Time RewardBroker::Deadline(const Batch& batch) {
  if (batch.worker != 0) return batch.expires;
  return batch.question.job.empty() ? batch.asked + batch.question.grace : absl::InfiniteFuture();
}

absl::Time RewardBroker::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, batch] : batches_) next = std::min(next, Deadline(batch));
  for (const auto& [job, unserved] : unserved_) {
    if (!unserved.told) next = std::min(next, unserved.deadline);
  }
  return next;
}

bool RewardBroker::Takes(const Worker& worker, const std::string& job, const std::vector<std::string>& names) {
  // A trial goes to any worker that has the reward.
  if (!job.empty() && !worker.hello.job().empty() && worker.hello.job() != job) return false;
  return std::all_of(names.begin(), names.end(),
                     [&](const std::string& name) { return worker.names.contains(name); });
}

bool RewardBroker::Takes(const Worker& worker, const Batch& batch) {
  return Takes(worker, batch.question.job, batch.question.reward_names);
}

std::vector<int64_t> RewardBroker::WorkersOf(const std::string& job) const {
  std::vector<int64_t> found;
  for (const auto& [id, worker] : workers_) {
    if (worker.hello.job() == job) found.push_back(id);
  }
  return found;
}

bool RewardBroker::Serves(const std::string& job, const std::vector<std::string>& names) const {
  return std::any_of(workers_.begin(), workers_.end(),
                     [&](const auto& entry) { return Takes(entry.second, job, names); });
}

void RewardBroker::Dispatch(absl::Time now, Actions* actions) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    Batch& batch = batches_.at(*it);
    // The worker with the fewest leases: they share the work.
    int64_t best = 0;
    for (const auto& [id, worker] : workers_) {
      const size_t in_flight = worker.leased.size();
      const size_t limit = static_cast<size_t>(worker.hello.max_in_flight());
      if (worker.credits == 0 || (limit > 0 && in_flight >= limit) || !Takes(worker, batch)) continue;
      if (best == 0 || in_flight < workers_.at(best).leased.size()) best = id;
    }
    if (best == 0) {
      ++it;
      continue;
    }
    it = waiting_.erase(it);
    Lease(&batch, best, now, actions);
  }
  WatchJobs(now, actions);
}

void RewardBroker::Lease(Batch* batch, int64_t worker_id, absl::Time now, Actions* actions) {
  Worker& worker = workers_.at(worker_id);
  --worker.credits;
  worker.leased.insert(batch->id);
  batch->worker = worker_id;
  batch->expires = now + batch->question.lease;
  ++batch->epoch;
  Send send;
  send.worker = worker_id;
  v1::RewardBatch* message = send.message.mutable_batch();
  message->set_batch_id(batch->id);
  message->set_lease_epoch(batch->epoch);
  message->set_step(batch->question.step);
  *message->mutable_lease_expire_time() =
      google::protobuf::util::TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(batch->expires));
  for (const v1::RewardItem& item : batch->question.items) *message->add_items() = item;
  actions->push_back(std::move(send));
}

void RewardBroker::EndLease(Batch* batch) {
  const auto worker = workers_.find(batch->worker);
  if (worker != workers_.end()) worker->second.leased.erase(batch->id);
  batch->worker = 0;
  waiting_.push_front(batch->id);
}

void RewardBroker::Revoke(const Batch& batch, const std::string& reason, Actions* actions) const {
  Send send;
  send.worker = batch.worker;
  send.message.mutable_revoke()->set_batch_id(batch.id);
  send.message.mutable_revoke()->set_lease_epoch(batch.epoch);
  send.message.mutable_revoke()->set_reason(reason);
  actions->push_back(std::move(send));
}

void RewardBroker::Failed(Batch* batch, absl::Status status, absl::Time now, Actions* actions) {
  if (++batch->attempts < batch->question.max_attempts) return;
  Answer answer;
  answer.status = absl::Status(status.code(), absl::StrCat(status.message(), " (", batch->attempts,
                                                           batch->attempts == 1 ? " attempt)" : " attempts)"));
  Finish(batch->id, std::move(answer), now, actions);
}

void RewardBroker::TakeResult(int64_t worker, const v1::RewardResult& result, absl::Time now, Actions* actions) {
  const auto found = batches_.find(result.batch_id());
  if (found == batches_.end() || found->second.worker != worker || found->second.epoch != result.lease_epoch()) {
    ++counts_.late;
    return;
  }
  Batch& batch = found->second;
  EndLease(&batch);
  auto scores = ScoresOf(result, batch.question);
  absl::Status status = scores.status();
  if (result.has_error() && result.error().code() != 0) {
    status = absl::UnknownError(absl::StrCat("the reward failed: ", result.error().message()));
  }
  if (!status.ok()) {
    ++counts_.failed;
    Failed(&batch, std::move(status), now, actions);
  } else {
    ++counts_.scored;
    Answer answer;
    answer.scores = *std::move(scores);
    Finish(batch.id, std::move(answer), now, actions);
  }
  Dispatch(now, actions);
}

void RewardBroker::Finish(const std::string& batch_id, Answer answer, absl::Time now, Actions* actions) {
  const std::string id = batch_id;  // callers pass the batch's own, which goes with it
  const Batch& batch = batches_.at(id);
  answer.job = batch.question.job;
  answer.batch_id = batch.question.batch_id;
  answer.took = now - batch.asked;
  actions->push_back(std::move(answer));
  std::erase(waiting_, id);
  batches_.erase(id);
}

void RewardBroker::WatchJobs(absl::Time now, Actions* actions) {
  std::set<std::string> alone;
  for (const auto& [id, batch] : batches_) {
    const Question& q = batch.question;
    if (q.job.empty() || Serves(q.job, q.reward_names)) continue;
    alone.insert(q.job);
    unserved_.try_emplace(q.job, Unserved{now, now + q.grace});
  }
  std::erase_if(unserved_, [&](const auto& entry) { return !alone.contains(entry.first); });
  for (auto& [job, unserved] : unserved_) {
    if (unserved.told || now < unserved.deadline) continue;
    unserved.told = true;
    actions->push_back(WorkerLost{job, now - unserved.since});
  }
}

}  // namespace finetuned::rewards
