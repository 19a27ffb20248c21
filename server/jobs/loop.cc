#include "server/jobs/loop.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/job/failpoint.h"
#include "proto/spec/tools.h"
#include "server/config/log.h"
#include "server/jobs/errors.h"
#include "server/jobs/record.h"

namespace finetuned::jobs {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);
constexpr absl::Duration kLongestWait = absl::Seconds(1);
constexpr absl::Duration kHeldUp = absl::Seconds(2);  // a round never takes that long by itself
constexpr absl::Duration kHousekeeping = absl::Seconds(5);
constexpr char kHelloKey[] = "worker_hello";

queue::SchedulerOptions ToOptions(const config::WorkerConfig& worker) {
  queue::SchedulerOptions options;
  options.max_crashes = worker.max_crashes;
  options.start_timeout = worker.start_timeout;
  options.heartbeat_timeout = worker.heartbeat_timeout;
  options.progress_timeout = worker.progress_timeout;
  options.cancel_grace = worker.cancel_grace;
  options.leave_grace = worker.leave_grace;
  options.idle_timeout =
      worker.idle_timeout == absl::ZeroDuration() ? absl::InfiniteDuration() : worker.idle_timeout;
  return options;
}

internal::v1::JobSignal ToSignal(const queue::SignalJob& signal) {
  internal::v1::JobSignal proto;
  proto.set_job(signal.job);
  switch (signal.kind) {
    case queue::SignalKind::kCheckpoint: proto.set_kind(internal::v1::JobSignal::CHECKPOINT); break;
    case queue::SignalKind::kLeave: proto.set_kind(internal::v1::JobSignal::LEAVE); break;
    case queue::SignalKind::kFinish: proto.set_kind(internal::v1::JobSignal::FINISH); break;
    case queue::SignalKind::kCancel: proto.set_kind(internal::v1::JobSignal::CANCEL); break;
  }
  return proto;
}

}  // namespace

JobManager::Loop::Loop(Options options, store::Store* store, metrics::Metrics* metrics, EventBus* bus)
    : options_(std::move(options)), store_(store), metrics_(metrics), bus_(bus),
      scheduler_(ToOptions(options_.config->worker), [store](const std::string& job) {
        const auto record = store->GetJob(job);
        return record.ok() && record->job.state() == v1::SUCCEEDED;
      }),
      rewards_(RewardHost()), device_time_(store) {}

JobManager::Loop::~Loop() { Stop(); }

absl::Status JobManager::Loop::Stopped() { return Draining(); }

absl::Status JobManager::Loop::Start(supervisor::Backend* backend) {
  backend_ = backend;
  if (absl::Status status = Boot(); !status.ok()) return status;
  ended_ = false;
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void JobManager::Loop::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool JobManager::Loop::Post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_all();
  return true;
}

// ---- taking over the store

absl::Status JobManager::Loop::Boot() {
  const auto unfinished = store_->UnfinishedJobs();
  if (!unfinished.ok()) return unfinished.status();
  for (int state = v1::VALIDATING; state <= v1::CANCELLED; ++state) {
    for (const std::string& method : spec::MethodNames()) {
      const auto count = store_->CountJobs(static_cast<v1::JobState>(state), method);
      if (!count.ok()) return count.status();
      metrics_->JobCount(method, static_cast<v1::JobState>(state), *count);
    }
  }
  if (const auto hello = store_->GetValue(kHelloKey); hello.ok()) {
    hello_.emplace();
    if (hello_->ParseFromString(*hello)) metrics_->Device(*hello_, options_.config->worker.vram_budget_bytes);
    ReadContext();
  }
  std::vector<queue::JobEntry> entries;
  for (const store::JobRecord& record : *unfinished) {
    live_[record.job.name()] = record;
    queued_since_[record.job.name()] = absl::FromUnixNanos(record.queue_order);
    entries.push_back(ToEntry(record));
  }
  FT_FAILPOINT("loop.boot.read");
  if (absl::Status status = store_->RemoveOrphans(); !status.ok()) {
    LogWarning(std::string(status.message()));
  }
  const std::vector<queue::Action> actions = scheduler_.Boot(std::move(entries), absl::Now());
  if (absl::Status status = CommitActions(actions, Extra()); !status.ok()) return status;
  scheduler_.Commit();
  FT_FAILPOINT("loop.boot.committed");
  LogInfo(absl::StrCat("took over ", unfinished->size(), " unfinished jobs, ", actions.size(),
                       " of them were interrupted"));
  return absl::OkStatus();
}

// ---- the thread

void JobManager::Loop::Run() {
  const bool prestart = options_.config->worker.prestart;
  TakeQuietly(prestart ? queue::Input(queue::Prestart{}) : queue::Input(queue::Tick{})).IgnoreError();
  for (;;) {
    RunOnce();
    WaitForWork();
    std::lock_guard lock(mutex_);
    if (stopping_) break;
  }
  Transact(nullptr).IgnoreError();
  std::deque<std::function<void()>> dropped;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    dropped.swap(tasks_);
  }
  EndSamples(Draining());
  bus_->CloseAll(Draining());
}

absl::Time JobManager::Loop::Clock() {
  const absl::Time now = absl::Now();
  const absl::Duration gap = now - looked_at_;
  looked_at_ = now;
  if (gap > kHeldUp) {
    LogWarning(absl::StrCat("nothing was done for ", absl::FormatDuration(absl::Trunc(gap, absl::Milliseconds(100))),
                            ": the disk or the whole machine hung"));
    scheduler_.Excuse(gap);
  }
  return now;
}

void JobManager::Loop::RunOnce() {
  Clock();
  std::deque<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
  DrainInbox();
  if (alive_) {
    TakeQuietly(queue::WorkerAlive{progress_}).IgnoreError();
    alive_ = progress_ = false;
  }
  const bool late = absl::Now() >= tick_at_ && !TakeQuietly(queue::Tick{}).ok();
  if (absl::Now() >= flush_at_) {
    if (const absl::Status status = Transact(nullptr); !status.ok()) {
      LogError(absl::StrCat("events of the worker wait to be stored: ", status.message()));
      flush_at_ = absl::Now() + kRetryDelay;
    }
  }
  if (absl::Now() >= rewards_.NextDeadline()) rewards_.Tick(absl::Now());
  if (absl::Now() >= housekeeping_at_) Housekeeping();
  tick_at_ = late ? absl::Now() + kRetryDelay : scheduler_.NextDeadline(absl::Now());
  if (options_.on_loop) options_.on_loop();
}

absl::Time JobManager::Loop::NextWake() const {
  const absl::Time next = std::min(
      {absl::Now() + kLongestWait, flush_at_, housekeeping_at_, tick_at_, rewards_.NextDeadline()});
  return inbox_.empty() ? next : std::min(next, retry_at_);
}

void JobManager::Loop::WaitForWork() {
  const absl::Time next = NextWake();
  std::unique_lock lock(mutex_);
  wake_.wait_until(lock, absl::ToChronoTime(next), [this] { return stopping_ || !tasks_.empty(); });
}

void JobManager::Loop::DrainInbox() {
  if (absl::Now() < retry_at_) return;
  while (!inbox_.empty()) {
    const absl::Status status = inbox_.front()();
    const bool store_failed = absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
    if (store_failed) {
      LogError(absl::StrCat("what the worker said waits to be stored: ", status.message()));
      retry_at_ = absl::Now() + kRetryDelay;
      return;
    }
    if (!status.ok()) LogWarning(absl::StrCat("word of the worker ignored: ", status.message()));
    inbox_.pop_front();
  }
}

void JobManager::Loop::Housekeeping() {
  const absl::Time now = absl::Now();
  housekeeping_at_ = now + kHousekeeping;
  metrics_->Refresh(now);
  LookForXids();
  metrics_->RewardWorkers(rewards_.workers());
  if (now >= forget_requests_at_) {
    forget_requests_at_ = now + absl::Hours(1);
    store_->ForgetRequests(now - absl::Hours(24)).IgnoreError();
    FT_FAILPOINT("loop.housekeeping.forgot");
  }
  PublishView();
}

// ---- one input

absl::Status JobManager::Loop::TakeQuietly(const queue::Input& input) {
  auto actions = scheduler_.Step(input, Clock());
  if (!actions.ok()) return actions.status();
  if (actions->empty()) {
    scheduler_.Commit();
    return absl::OkStatus();
  }
  absl::Status status = CommitActions(*actions, Extra());
  if (!status.ok()) LogError(absl::StrCat("the queue waits for the store: ", status.message()));
  return status;
}

absl::Status JobManager::Loop::Transact(const queue::Input* input, Extra extra) {
  std::vector<queue::Action> actions;
  if (input != nullptr) {
    auto stepped = scheduler_.Step(*input, Clock());
    if (!stepped.ok()) return stepped.status();
    actions = *std::move(stepped);
  }
  return CommitActions(actions, std::move(extra));
}

absl::Status JobManager::Loop::CommitActions(const std::vector<queue::Action>& actions, Extra extra) {
  const absl::Time now = absl::Now();
  Changed changed;
  for (const std::string& name : dirty_) changed[name] = live_.at(name);
  if (extra.added) changed[extra.added->job.name()] = *extra.added;
  const auto record = [&](const std::string& name) -> store::JobRecord& {
    const auto [found, added] = changed.try_emplace(name);
    if (added) found->second = live_.at(name);
    return found->second;
  };
  store::WriteBatch batch = pending_;
  for (store::EventRecord& event : extra.events) batch.events.push_back(std::move(event));
  for (store::AdapterRecord& adapter : extra.adapters) batch.adapters.push_back(std::move(adapter));
  if (extra.edit) extra.edit(&record(extra.edited).job);
  for (const queue::Action& action : actions) {
    const auto* change = std::get_if<queue::StateChange>(&action);
    if (change == nullptr) break;
    store::JobRecord& job = record(change->job);
    batch.events.push_back({job.job.uid(), ApplyChange(*change, options_.version, now, &job)});
  }
  for (const auto& [name, job] : changed) batch.jobs.push_back(job);
  if (extra.answered != nullptr) *extra.answered = record(extra.answer).job;
  if (extra.caller != nullptr && !extra.caller->request_id.empty()) {
    batch.request = {extra.caller->principal,   extra.caller->request_id, extra.method,
                     extra.caller->fingerprint, record(extra.answer).job.SerializeAsString(), now};
  }
  FT_FAILPOINT("loop.commit.before");
  if (absl::Status status = store_->Commit(&batch); !status.ok()) {
    scheduler_.Rollback();
    return status;
  }
  scheduler_.Commit();
  FT_FAILPOINT("loop.commit.after");
  AfterCommit(batch, actions, changed);
  if (!actions.empty() || extra.added || extra.edit) PublishView();
  return absl::OkStatus();
}

void JobManager::Loop::AfterCommit(const store::WriteBatch& batch, const std::vector<queue::Action>& actions,
                                   const Changed& changed) {
  for (const queue::Action& action : actions) {
    const auto* change = std::get_if<queue::StateChange>(&action);
    if (change == nullptr || change->to != v1::PREPARING) continue;
    // The record still says why the job waited; one that is not known yet was added in this batch.
    const auto before = live_.find(change->job);
    metrics_->AttemptStarted(before == live_.end() ? "submit" : AttemptCause(before->second.job));
  }
  pending_ = {};
  dirty_.clear();
  flush_at_ = absl::InfiniteFuture();
  for (const auto& [name, record] : changed) {
    if (queue::IsTerminal(record.job.state())) {
      live_.erase(name);
    } else {
      live_[name] = record;
    }
  }
  for (const store::EventRecord& event : batch.events) bus_->Publish(event.uid, event.event);
  FT_FAILPOINT("loop.commit.published");
  if (said_ > acknowledged_) {
    acknowledged_ = said_;
    backend_->Acknowledge(said_);
    FT_FAILPOINT("loop.commit.acknowledged");
  }
  for (const queue::Action& action : actions) {
    if (const auto* change = std::get_if<queue::StateChange>(&action)) {
      CountChange(*change, changed.at(change->job));
    } else {
      Act(action);
    }
  }
}

void JobManager::Loop::CountChange(const queue::StateChange& change, const store::JobRecord& record) {
  const v1::Job& job = record.job;
  const absl::Time now = absl::Now();
  LogInfo(absl::StrCat(job.name(), ": ", queue::StateName(change.from), " -> ", queue::StateName(change.to),
                       change.message.empty() ? "" : ": ", change.message));
  metrics_->JobState(spec::MethodName(job.spec()), change.from, change.to);
  if (change.to == v1::PREPARING) {
    metrics_->QueueWait(now - queued_since_[job.name()]);
    metrics_->JobOnDevice(job);
    pace_start_ = {0, absl::InfinitePast()};
  }
  if (change.event == queue::JobEvent::kPreempt) metrics_->JobPreempted();
  if (change.to == v1::QUEUED) queued_since_[job.name()] = now;
  if (queue::HoldsDevice(change.from) && !queue::HoldsDevice(change.to)) {
    if (change.to == v1::SUCCEEDED) metrics_->AttemptMemory(job.name(), job.memory().total_bytes());
    ChargeDeviceTime(change, job);
    metrics_->JobOffDevice(job.name());
    rewards_.Forget(job.name());
  }
  if (change.to == v1::PAUSED && change.reason == v1::WAITING_FOR_REWARD_WORKER) PausedForRewards(job);
  if (queue::IsTerminal(change.to)) {
    if (change.reason == v1::OUT_OF_DEVICE_MEMORY) metrics_->OutOfMemory();
    metrics_->JobFinished(spec::MethodName(job.spec()), change.to, change.reason, Elapsed(job, now));
    queued_since_.erase(job.name());
    best_eval_.erase(job.name());
    rewards_.JobEnded(job.name());
  }
}

void JobManager::Loop::Act(const queue::Action& action) {
  if (std::holds_alternative<queue::StartWorker>(action)) {
    FT_FAILPOINT("loop.act.start_worker");
    said_ = acknowledged_ = 0;
    worker_ = backend_->Start();
  } else if (std::holds_alternative<queue::StopWorker>(action)) {
    FT_FAILPOINT("loop.act.stop_worker");
    backend_->Shutdown();
  } else if (const auto* kill = std::get_if<queue::KillWorker>(&action)) {
    FT_FAILPOINT("loop.act.kill_worker");
    backend_->Kill(kill->why);
  } else if (const auto* run = std::get_if<queue::RunJob>(&action)) {
    FT_FAILPOINT("loop.act.run_job");
    SendRun(run->job);
    FT_FAILPOINT("loop.act.job_sent");
  } else if (const auto* signal = std::get_if<queue::SignalJob>(&action)) {
    FT_FAILPOINT("loop.act.signal");
    backend_->Signal(ToSignal(*signal));
    FT_FAILPOINT("loop.act.signalled");
  } else if (std::holds_alternative<queue::Drained>(action)) {
    FT_FAILPOINT("loop.act.drained");
    LogInfo("drained: the device is free");
    if (options_.on_drained) options_.on_drained();
  }
}

}  // namespace finetuned::jobs
