#include "server/supervisor/slurm.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "finetuned/v1/jobs.pb.h"
#include "proto/spec/job_file.h"
#include "server/config/log.h"
#include "server/supervisor/command.h"
#include "server/supervisor/event_tail.h"

namespace finetuned::supervisor {
namespace {

using internal::v1::JobSignal;
using internal::v1::WorkerMessage;

constexpr absl::Duration kCommandLimit = absl::Seconds(60);
constexpr absl::Duration kWaitingSign = absl::Minutes(1);
constexpr int kCheckpointed = 75, kCancelled = 79;  // outcomes of a worker
constexpr size_t kMessagesAtOnce = 1000;
constexpr size_t kLogTail = 4096;

// How a job stands, as squeue shows it.
struct SlurmState {
  bool known = false;       // false: it has left the queue
  bool pending = false;
  std::string state, reason;  // "PENDING", "Resources"
};

bool Ended(const std::string& state) {
  for (const char* going : {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING",
                            "REQUEUED", "REQUEUE_HOLD", "SIGNALING", "STAGE_OUT", "RESV_DEL_HOLD", "SPECIAL_EXIT"}) {
    if (state == going) return false;
  }
  return true;
}

absl::StatusOr<SlurmState> AskState(const std::string& id) {
  auto said = RunCommand({"squeue", "--noheader", "--jobs", id, "--format", "%T|%r"}, kCommandLimit);
  if (!said.ok()) return said.status();
  SlurmState state;
  // Slurm forgets a job some minutes after its end; then squeue fails for its number.
  if (said->code != 0) {
    if (said->errors.find("Invalid job id") != std::string::npos) return state;
    return absl::UnavailableError(absl::StrCat("squeue: ", absl::StripAsciiWhitespace(said->errors)));
  }
  const std::vector<std::string> parts = absl::StrSplit(absl::StripAsciiWhitespace(said->output), '|');
  if (parts.empty() || parts[0].empty()) return state;
  state.state = parts[0];
  state.reason = parts.size() > 1 ? parts[1] : "";
  state.known = !Ended(state.state);
  state.pending = state.state == "PENDING";
  return state;
}

// "NODE_FAIL, exit code 0:9"; what is left of a job that ended without a word of the worker.
std::string AskEnd(const std::string& id) {
  const auto said = RunCommand({"sacct", "--noheader", "--parsable2", "--jobs", id, "--allocations", "--format", "State,ExitCode"},
                               kCommandLimit);
  if (!said.ok() || said->code != 0) return "an unknown way (sacct does not say)";
  const std::vector<std::string> parts = absl::StrSplit(absl::StripAsciiWhitespace(said->output), '|');
  if (parts.size() < 2) return "an unknown way (sacct does not say)";
  return absl::StrCat("state ", parts[0], ", exit code ", parts[1]);
}

std::string Tail(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<size_t>(in.tellg());
  in.seekg(static_cast<std::streamoff>(size - std::min(size, kLogTail)));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// What survives a restart of the daemon: which Slurm job it is, and how far its events have been kept.
struct Note {
  std::string id;
  int64_t offset = 0;
};

std::string NotePath(const std::string& state_dir) { return state_dir + "/slurm.json"; }

std::optional<Note> ReadNote(const std::string& state_dir) {
  std::ifstream in(NotePath(state_dir));
  const auto note = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!note.is_object() || !note.contains("id") || !note["id"].is_string()) return std::nullopt;
  return Note{note["id"].get<std::string>(), note.value("offset", int64_t{0})};
}

absl::Status WriteDurably(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const bool written = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(fd) == 0;
  if (fd >= 0) close(fd);
  if (!written || rename(temporary.c_str(), path.c_str()) != 0) return absl::UnavailableError("cannot write " + path);
  return absl::OkStatus();
}

absl::Status WriteNote(const std::string& state_dir, const Note& note) {
  return WriteDurably(NotePath(state_dir), nlohmann::json{{"id", note.id}, {"offset", note.offset}}.dump());
}

const char* SignalName(JobSignal::Kind kind) {
  switch (kind) {
    case JobSignal::CHECKPOINT: return "USR1";
    case JobSignal::FINISH: return "USR2";
    case JobSignal::LEAVE: return "TERM";
    default: return "KILL";
  }
}

}  // namespace

// Everything happens on one thread: calls put work on its list, and it looks at Slurm in between.
class Slurm::Impl {
 public:
  Impl(SlurmOptions options, WorkerEvents* events) : options_(std::move(options)), events_(events), thread_([this] { Loop(); }) {}

  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  int Start() {
    const int number = ++number_;
    Post([this, number] {
      here_ = number;
      sequence_ = 0;
      sent_.clear();
      internal::v1::WorkerHello hello;
      hello.set_device("slurm");
      hello.set_device_total_bytes(options_.vram_bytes);
      hello.set_device_free_bytes(options_.vram_bytes);
      ++sequence_;
      events_->OnWorkerReady(here_, hello);
    });
    return number;
  }

  void Post(std::function<void()> work) {
    {
      std::lock_guard lock(mutex_);
      work_.push_back(std::move(work));
    }
    changed_.notify_all();
  }

  void Run(const internal::v1::RunJob& run) {
    job_.emplace(Running{run, {}, EventTail(run.state_dir(), run.job(), run.attempt(), 0)});
    if (absl::Status status = FindOrSubmit(); !status.ok()) Leave(std::string(status.message()), "");
  }

  void Signal(const JobSignal& signal) {
    if (!job_.has_value() || job_->run.job() != signal.job()) return;
    const auto state = AskState(job_->note.id);
    // What has not started has nothing to save.
    const bool pending = state.ok() && state->pending;
    if (signal.kind() == JobSignal::CANCEL || (signal.kind() == JobSignal::LEAVE && pending)) {
      Cancel();
      Finish(signal.kind() == JobSignal::CANCEL ? kCancelled : kCheckpointed);
      return;
    }
    const auto done = RunCommand({"scancel", absl::StrCat("--signal=", SignalName(signal.kind())), job_->note.id}, kCommandLimit);
    if (!done.ok() || done->code != 0) LogWarning(absl::StrCat("scancel failed for Slurm job ", job_->note.id));
  }

  void Acknowledge(int64_t sequence) {
    int64_t offset = -1;
    for (; !sent_.empty() && sent_.front().first <= sequence; sent_.pop_front()) offset = sent_.front().second;
    if (offset < 0 || !job_.has_value()) return;
    job_->note.offset = offset;
    if (absl::Status status = WriteNote(job_->run.state_dir(), job_->note); !status.ok()) LogWarning(std::string(status.message()));
  }

  void Refuse(int64_t sample) {
    WorkerMessage message;
    internal::v1::SamplePiece* piece = message.mutable_sample();
    piece->set_id(sample);
    piece->set_done(true);
    piece->mutable_error()->set_code(12);  // UNIMPLEMENTED
    piece->mutable_error()->set_message("this daemon runs jobs in Slurm, which has no worker that waits; sample where the adapter is");
    Say(std::move(message), -1);
  }

  void Shutdown() {
    // The job stays in Slurm; the next daemon finds it.
    job_.reset();
    Leave("left", "");
  }

  void Kill(const std::string& why) {
    LogWarning(absl::StrCat("cancelling the job in Slurm: it ", why));
    if (job_.has_value()) Cancel();
    job_.reset();
    Leave("was cancelled in Slurm", "");
  }

 private:
  struct Running {
    internal::v1::RunJob run;
    Note note;
    EventTail tail;
    absl::Time told = absl::InfinitePast();  // that it waits
    std::string reason;                      // for which it waits
    int64_t step = 0;
    std::string phase;
  };

  void Loop() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, absl::ToChronoNanoseconds(options_.poll_interval),
                          [this] { return !work_.empty() || stopping_; });
        if (stopping_) return;
        if (!work_.empty()) {
          work = std::move(work_.front());
          work_.pop_front();
        }
      }
      if (work) {
        work();
      } else if (job_.has_value()) {
        Look();
      }
    }
  }

  absl::Status FindOrSubmit() {
    const std::string& dir = job_->run.state_dir();
    if (const auto note = ReadNote(dir); note.has_value()) {
      const auto state = AskState(note->id);
      if (!state.ok()) return state.status();
      if (state->known) {
        LogInfo(absl::StrCat(job_->run.job(), " goes on as Slurm job ", note->id));
        Follow(*note);
        return absl::OkStatus();
      }
    }
    return Submit(dir);
  }

  absl::Status Submit(const std::string& dir) {
    std::error_code error;
    std::filesystem::create_directories(dir, error);
    v1::Job job;
    job.set_name(job_->run.job());
    *job.mutable_spec() = job_->run.spec();
    job.mutable_spec()->set_base_model(job_->run.base_model_path());
    job.mutable_spec()->set_dataset(job_->run.dataset_path());
    job.mutable_spec()->set_eval_dataset(job_->run.eval_dataset_path());
    job.mutable_spec()->set_init_adapter(job_->run.init_adapter_path());
    const std::string file = dir + "/job.json";
    if (absl::Status status = WriteDurably(file, spec::MessageToJson(job)); !status.ok()) return status;
    // Events of an earlier attempt have been told.
    const auto size = std::filesystem::file_size(dir + "/events.jsonl", error);
    const int64_t offset = error ? 0 : static_cast<int64_t>(size);
    std::vector<std::string> arguments = {"sbatch", "--parsable", "--no-requeue", absl::StrCat("--output=", dir, "/slurm.log"),
                                          absl::StrCat("--job-name=", job_->run.job().substr(job_->run.job().find('/') + 1)),
                                          absl::StrCat("--export=ALL,FINETUNE_NO_REQUEUE=1,FINETUNE_WORKER=", options_.worker_binary)};
    arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
    arguments.insert(arguments.end(), {options_.script, file, dir});
    const auto said = RunCommand(arguments, kCommandLimit);
    if (!said.ok()) return said.status();
    const std::string id = std::string(absl::StripAsciiWhitespace(said->output.substr(0, said->output.find(';'))));
    int64_t number = 0;
    if (said->code != 0 || !absl::SimpleAtoi(id, &number)) {
      return absl::UnavailableError(absl::StrCat("sbatch: ", absl::StripAsciiWhitespace(said->errors)));
    }
    LogInfo(absl::StrCat(job_->run.job(), " is Slurm job ", id));
    Follow({id, offset});
    return WriteNote(dir, job_->note);
  }

  void Follow(const Note& note) {
    job_->note = note;
    job_->tail = EventTail(job_->run.state_dir(), job_->run.job(), job_->run.attempt(), note.offset);
  }

  void Look() {
    // In this order: what the worker wrote before its end is read after its end was seen.
    const auto state = AskState(job_->note.id);
    if (!state.ok()) {
      LogWarning(std::string(state.status().message()));
      return;  // Slurm's controller may be down for a while; the job is not
    }
    if (ReadEvents()) return;
    if (state->known) {
      Beat(*state);
      return;
    }
    const std::string how = absl::StrCat("ended in Slurm (job ", job_->note.id, ") with ", AskEnd(job_->note.id));
    const std::string log = Tail(job_->run.state_dir() + "/slurm.log");
    Leave(how, log);
  }

  // True when the job has said its last word.
  bool ReadEvents() {
    for (;;) {
      std::vector<EventTail::Said> said = job_->tail.Read(kMessagesAtOnce);
      if (said.empty()) return false;
      for (EventTail::Said& one : said) {
        const bool last = one.message.has_finished();
        if (one.message.event().has_step()) job_->step = one.message.event().step().step();
        if (!one.message.event().phase().empty()) job_->phase = one.message.event().phase();
        Say(std::move(one.message), one.end);
        if (!last) continue;
        Forget();
        return true;
      }
    }
  }

  void Beat(const SlurmState& state) {
    if (state.pending && (state.reason != job_->reason || absl::Now() - job_->told > kWaitingSign)) {
      job_->reason = state.reason;
      job_->told = absl::Now();
      WorkerMessage message;
      message.mutable_event()->set_job(job_->run.job());
      message.mutable_event()->set_attempt(job_->run.attempt());
      message.mutable_event()->set_time_unix_nanos(absl::ToUnixNanos(absl::Now()));
      message.mutable_event()->set_phase(absl::StrCat("waiting in Slurm: ", state.reason));
      Say(std::move(message), -1);
    }
    WorkerMessage message;
    message.mutable_heartbeat()->set_step(job_->step);
    message.mutable_heartbeat()->set_phase(job_->phase);
    Say(std::move(message), -1);
  }

  void Finish(int outcome) {
    WorkerMessage message;
    internal::v1::WorkerFinished* finished = message.mutable_finished();
    finished->set_job(job_->run.job());
    finished->set_attempt(job_->run.attempt());
    finished->set_outcome(outcome);
    Forget();
    Say(std::move(message), -1);
  }

  // The job is no more; its events may still wait for their acknowledgement.
  void Forget() {
    std::error_code error;
    std::filesystem::remove(NotePath(job_->run.state_dir()), error);
    job_.reset();
  }

  void Cancel() {
    const auto done = RunCommand({"scancel", job_->note.id}, kCommandLimit);
    if (!done.ok() || done->code != 0) LogWarning(absl::StrCat("scancel failed for Slurm job ", job_->note.id));
  }

  void Say(WorkerMessage message, int64_t end) {
    message.set_sequence(++sequence_);
    if (end >= 0) sent_.emplace_back(sequence_, end);
    events_->OnWorkerMessage(here_, std::move(message));
  }

  void Leave(const std::string& how, const std::string& log) {
    job_.reset();
    events_->OnWorkerExit(here_, how, log);
  }

  const SlurmOptions options_;
  WorkerEvents* const events_;
  std::atomic<int> number_{0};
  // Of the thread:
  int here_ = 0;
  int64_t sequence_ = 0;
  std::deque<std::pair<int64_t, int64_t>> sent_;  // sequence, end in the file
  std::optional<Running> job_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;  // guarded by mutex_
  bool stopping_ = false;                   // guarded by mutex_
  std::thread thread_;                      // last: it uses all of the above
};

Slurm::Slurm(SlurmOptions options, WorkerEvents* events) : impl_(std::make_unique<Impl>(std::move(options), events)) {}
Slurm::~Slurm() = default;

int Slurm::Start() { return impl_->Start(); }
void Slurm::Run(const internal::v1::RunJob& run) {
  impl_->Post([this, run] { impl_->Run(run); });
}
void Slurm::Signal(const internal::v1::JobSignal& signal) {
  impl_->Post([this, signal] { impl_->Signal(signal); });
}
void Slurm::Reward(const internal::v1::RewardAnswer&) {}  // nobody asks: such jobs are refused by the worker
void Slurm::Sample(const internal::v1::RunSample& sample) {
  impl_->Post([this, id = sample.id()] { impl_->Refuse(id); });
}
void Slurm::CancelSample(int64_t) {}
void Slurm::Acknowledge(int64_t sequence) {
  impl_->Post([this, sequence] { impl_->Acknowledge(sequence); });
}
void Slurm::Shutdown() {
  impl_->Post([this] { impl_->Shutdown(); });
}
void Slurm::Kill(const std::string& why) {
  impl_->Post([this, why] { impl_->Kill(why); });
}

}  // namespace finetuned::supervisor
