// Sequences of calls on the queue's core against a plain model: a map of states that follows the state changes, and
// rules that hold whatever happens.
#include <fuzzer/FuzzedDataProvider.h>

#include <map>
#include <optional>
#include <set>

#include "fuzzing.h"
#include "server/queue/scheduler.h"

namespace {

using namespace finetuned;
using namespace finetuned::queue;
using fuzz::Require;

constexpr int kJobs = 6;
constexpr v1::StateReason kReasons[] = {v1::STATE_REASON_UNSPECIFIED, v1::OUT_OF_DEVICE_MEMORY, v1::DISK_FULL,
                                        v1::GPU_XID_ERROR, v1::INTERNAL_ERROR};
constexpr int kOutcomes[] = {0, 65, 70, 75, 78, 79};
constexpr JobEvent kUserEvents[] = {JobEvent::kCheckpoint, JobEvent::kStop, JobEvent::kPause, JobEvent::kResume,
                                    JobEvent::kCancel};

SchedulerOptions Options() {
  SchedulerOptions options;
  options.max_crashes = 2;
  options.start_timeout = options.heartbeat_timeout = options.cancel_grace = absl::Seconds(10);
  options.progress_timeout = options.leave_grace = options.idle_timeout = absl::Seconds(30);
  return options;
}

// What anybody can know who only reads the actions.
struct Model {
  std::map<std::string, v1::JobState> states;
  std::optional<std::string> running;  // RunJob was sent and the job has not let go
  bool process = false;                // a worker process exists
  bool ready = false;                  // it said hello
  bool drained = false;

  void Follow(const Action& action);

 private:
  void Change(const StateChange& change);
};

void Model::Change(const StateChange& change) {
  const auto found = states.find(change.job);
  Require(found != states.end() && found->second == change.from, "a change starts from the job's state");
  const auto transition = FindTransition(change.event, change.from);
  Require(transition.ok() && (*transition)->to == change.to, "a change is in the table");
  found->second = change.to;
  if (running == change.job && !HoldsDevice(change.to)) running.reset();
}

void Model::Follow(const Action& action) {
  Require(!drained, "nothing happens after the queue is drained");
  if (const auto* change = std::get_if<StateChange>(&action)) return Change(*change);
  if (const auto* run = std::get_if<RunJob>(&action)) {
    Require(process && ready, "a job is given to a worker that is there");
    Require(!running, "one job at a time");
    // Not only PREPARING: in the same step it may be told to cancel or leave.
    Require(HoldsDevice(states.at(run->job)), "a job that runs was started");
    running = run->job;
  } else if (const auto* signal = std::get_if<SignalJob>(&action)) {
    Require(process, "signals go to a worker");
    // The change that ends the job may stand before its signal.
    Require(states.contains(signal->job), "signals are about known jobs");
  } else if (std::holds_alternative<StartWorker>(action)) {
    Require(!process, "one worker at a time");
    process = true;
  } else if (std::holds_alternative<Drained>(action)) {
    Require(!process, "drained means that the worker has left");
    drained = true;
  } else {
    Require(process, "only a worker that is there is stopped");
  }
}

class Session {
 public:
  Session(const uint8_t* data, size_t size)
      : in_(data, size), scheduler_(Options(), [this](const std::string& job) { return succeeded_.contains(job); }) {}

  void Run() {
    while (in_.remaining_bytes() > 0 && !model_.drained) {
      now_ += absl::Seconds(in_.ConsumeIntegralInRange(0, 12));
      const std::optional<Input> input = Next();
      if (input) Take(*input);
      CheckRules();
    }
  }

 private:
  std::string Name() { return std::string(1, static_cast<char>('a' + in_.ConsumeIntegralInRange(0, kJobs - 1))); }

  JobEntry Entry(const std::string& name) {
    JobEntry job;
    job.name = name;
    job.priority = in_.ConsumeIntegralInRange(-1, 1);
    job.order = ++order_;
    job.hold = in_.ConsumeIntegralInRange(0, 7) == 0;
    if (in_.ConsumeIntegralInRange(0, 3) == 0) job.not_before = now_ + absl::Seconds(20);
    // Only on earlier names: the API refuses circles.
    if (const std::string other = Name(); other < name) job.after.push_back(other);
    if (in_.ConsumeBool()) job.max_run = absl::Seconds(60);
    return job;
  }

  // Nothing where the call could not be made: the API and the supervisor see to that.
  std::optional<Input> Next() {
    const std::string name = Name();
    const auto known = model_.states.find(name);
    const bool ended = known != model_.states.end() && IsTerminal(known->second);
    switch (in_.ConsumeIntegralInRange(0, 13)) {
      case 0:
      case 1:
        if (known == model_.states.end()) return Submit{Entry(name)};
        if (!ended) return std::nullopt;
        if (known->second == v1::SUCCEEDED) return std::nullopt;
        return Retry(name, known->second);
      case 2: return UserRequest{name, in_.PickValueInArray(kUserEvents), "asked"};
      case 3: {
        const JobEntry entry = Entry(name);
        return Reschedule{name, entry.priority, entry.hold, entry.not_before, entry.after, entry.max_run, 0};
      }
      case 4:
        if (!model_.process || model_.ready) return std::nullopt;
        model_.ready = true;
        return WorkerReady{};
      case 5: return model_.ready ? std::optional<Input>(WorkerAlive{in_.ConsumeBool()}) : std::nullopt;
      case 6: return Phase("training");
      case 7: return Phase("exporting");
      case 8:
        if (!model_.running) return std::nullopt;
        return WorkerDone{*model_.running, in_.PickValueInArray(kOutcomes), in_.PickValueInArray(kReasons), "done"};
      case 9:
        if (!model_.process) return std::nullopt;
        model_.process = model_.ready = false;
        return WorkerGone{"it ended"};
      case 10: return RewardWorkerLost{name, "nobody scores"};
      case 11: return RewardWorkerFound{name};
      case 12: return in_.ConsumeIntegralInRange(0, 15) == 0 ? Input(Drain{absl::Seconds(5), in_.ConsumeBool()}) : Input(Tick{});
      default: return in_.ConsumeBool() ? Input(Prestart{}) : Input(Tick{});
    }
  }

  std::optional<Input> Retry(const std::string& name, v1::JobState state) {
    JobEntry entry = Entry(name);
    entry.state = state;
    return RetryJob{entry};
  }
  std::optional<Input> Phase(const char* phase) {
    if (!model_.running) return std::nullopt;
    return WorkerPhase{*model_.running, phase};
  }

  void Take(const Input& input) {
    const auto before = scheduler_.Waits(now_);
    if (in_.ConsumeIntegralInRange(0, 7) == 0) {  // the disk is full: nothing has happened
      if (scheduler_.Step(input, now_).ok()) scheduler_.Rollback();
      RequireSame(before);
    }
    const auto actions = scheduler_.Step(input, now_);
    if (!actions.ok()) return RequireSame(before);
    scheduler_.Commit();
    if (const auto* submit = std::get_if<Submit>(&input)) model_.states[submit->job.name] = v1::QUEUED;
    for (const Action& action : *actions) model_.Follow(action);
    for (const auto& [name, state] : model_.states) {
      if (state == v1::SUCCEEDED) succeeded_.insert(name);
    }
  }

  void RequireSame(const std::map<std::string, Wait>& before) {
    const auto after = scheduler_.Waits(now_);
    Require(after.size() == before.size(), "a refused or undone step changes nothing");
    for (const auto& [name, wait] : before) {
      const auto found = after.find(name);
      Require(found != after.end() && found->second.position == wait.position && found->second.why == wait.why,
              "a refused or undone step changes nothing");
    }
  }

  void CheckRules() {
    int holders = 0;
    size_t queued = 0;
    for (const auto& [name, state] : model_.states) {
      const JobEntry* entry = scheduler_.Find(name);
      Require((entry == nullptr) == IsTerminal(state), "a job is in the queue until it ends");
      Require(entry == nullptr || entry->state == state, "the queue knows the job's state");
      holders += HoldsDevice(state);
      queued += state == v1::QUEUED;
      Require(!HoldsDevice(state) || scheduler_.holder() == name, "who holds the device is its holder");
    }
    Require(holders <= 1, "one job holds the device");
    Require(scheduler_.queued() == queued && scheduler_.Waits(now_).size() == queued, "every queued job has a place");
    Require(scheduler_.NextDeadline(now_) > absl::InfinitePast(), "the next deadline is a time");
  }

  FuzzedDataProvider in_;
  std::set<std::string> succeeded_;
  Scheduler scheduler_;
  Model model_;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
  int64_t order_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Session(data, size).Run();
  return 0;
}
