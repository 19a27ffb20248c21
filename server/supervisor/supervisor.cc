#include "server/supervisor/supervisor.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <mutex>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "engine/job/failpoint.h"
#include "server/config/log.h"
#include "server/supervisor/worker_link.h"
#include "server/supervisor/worker_log.h"
#include "server/supervisor/worker_process.h"

namespace finetuned::supervisor {

class Supervisor::Impl {
 public:
  Impl(SupervisorOptions options, WorkerEvents* events)
      : options_(std::move(options)),
        events_(events),
        link_([this](const auto& hello) { events_->OnWorkerReady(number_, hello); },
              [this](auto message) { events_->OnWorkerMessage(number_, std::move(message)); }),
        log_(options_.layout.WorkerLog(), options_.log_bytes, options_.log_files) {}

  ~Impl() {
    Kill("is not needed any more");
    if (life_.joinable()) life_.join();
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    unlink(options_.layout.WorkerSocket().c_str());
  }

  absl::Status Listen() {
    const std::string path = options_.layout.WorkerSocket();
    unlink(path.c_str());  // of a daemon that is gone: the caller owns the state directory
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
    builder.RegisterService(&link_);
    FT_FAILPOINT("supervisor.socket_free");
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || chmod(path.c_str(), 0600) != 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen for the worker on ", path));
    }
    return absl::OkStatus();
  }

  int Start() {
    if (life_.joinable()) life_.join();  // of the last process, which has told its end
    {
      std::lock_guard lock(mutex_);
      kill_wanted_ = false;
    }
    const int number = ++number_;
    life_ = std::thread([this, number] { Live(number); });
    return number;
  }

  void Kill(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (pid_ > 0) {
      LogWarning(absl::StrCat("killing the worker, process ", pid_, ": it ", why));
      kill(-pid_, SIGKILL);
    }
    kill_wanted_ = true;
  }

  WorkerLink& link() { return link_; }

 private:
  // The life of one process, on a thread of its own: this thread's end would take the process with it.
  void Live(int number) {
    const absl::StatusOr<std::string> how = RunProcess();
    link_.Expect("");
    link_.WaitDetached(absl::Seconds(2));
    const std::string end = how.ok() ? *how : std::string(how.status().message());
    events_->OnWorkerExit(number, end, log_.Tail());
  }

  absl::StatusOr<std::string> RunProcess() {
    log_.ForgetTail();
    absl::StatusOr<Fd> lock = LockAgainstOrphan(options_.layout.WorkerLock(), options_.orphan_grace);
    if (!lock.ok()) return lock.status();
    FT_FAILPOINT("supervisor.locked");
    const std::string token = RandomToken();
    link_.Expect(token);
    LaunchOptions launch = {options_.binary, options_.extra_arguments, token, lock->get()};
    for (const std::string& argument :
         {std::string("--connect"), "unix://" + options_.layout.WorkerSocket(), std::string("--token-fd"),
          std::to_string(kTokenFd), std::string("--device"), options_.device, std::string("--measurement"),
          options_.layout.DeviceMeasurement()}) {
      launch.arguments.push_back(argument);
    }
    absl::StatusOr<Child> child = Launch(launch);
    if (!child.ok()) return child.status();
    FT_FAILPOINT("supervisor.launched");
    WriteLockOwner(*lock, child->pid);
    FT_FAILPOINT("supervisor.owner_written");
    lock->Reset();  // the child has it now
    LogInfo(absl::StrCat("worker started, process ", child->pid));
    SetProcess(child->pid);
    FT_FAILPOINT("supervisor.running");
    CopyOutput(*child);
    FT_FAILPOINT("supervisor.output_ended");
    // Not before the process is reaped may its number be used by another: nobody kills it after this.
    SetProcess(-1);
    std::string how = Reap(child->pid);
    FT_FAILPOINT("supervisor.reaped");
    LogInfo(absl::StrCat("the worker, process ", child->pid, ", ", how));
    return how;
  }

  void SetProcess(pid_t pid) {
    std::lock_guard lock(mutex_);
    pid_ = pid;
    if (pid > 0 && kill_wanted_) kill(-pid, SIGKILL);
  }

  // Until the process has ended and all it wrote is read.
  void CopyOutput(const Child& child) {
    char buffer[4096];
    for (bool ended = false; !ended;) {
      pollfd fds[2] = {{child.output.get(), POLLIN, 0}, {child.pidfd.get(), POLLIN, 0}};
      poll(fds, 2, -1);
      ended = (fds[1].revents & POLLIN) != 0;
      ssize_t n;
      while ((n = read(child.output.get(), buffer, sizeof buffer)) > 0) {
        log_.Append({buffer, static_cast<size_t>(n)});
      }
      // Output closed, process alive: wait for its end alone.
      if (n == 0 && !ended) {
        pollfd only = {child.pidfd.get(), POLLIN, 0};
        while (poll(&only, 1, -1) < 0) {
        }
        ended = true;
      }
    }
  }

  const SupervisorOptions options_;
  WorkerEvents* const events_;
  std::atomic<int> number_{0};
  WorkerLink link_;
  WorkerLog log_;               // used by the life thread
  std::unique_ptr<grpc::Server> server_;
  std::thread life_;
  std::mutex mutex_;
  pid_t pid_ = -1;              // guarded by mutex_; -1: none
  bool kill_wanted_ = false;    // guarded by mutex_
};

Supervisor::Supervisor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Supervisor::~Supervisor() = default;

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(SupervisorOptions options,
                                                               WorkerEvents* events) {
  auto impl = std::make_unique<Impl>(std::move(options), events);
  if (absl::Status status = impl->Listen(); !status.ok()) return status;
  return std::unique_ptr<Supervisor>(new Supervisor(std::move(impl)));
}

int Supervisor::Start() { return impl_->Start(); }

void Supervisor::Run(const internal::v1::RunJob& run) {
  internal::v1::WorkerCommand command;
  *command.mutable_run() = run;
  impl_->link().Send(std::move(command));
}

void Supervisor::Signal(const internal::v1::JobSignal& signal) {
  internal::v1::WorkerCommand command;
  *command.mutable_signal() = signal;
  impl_->link().Send(std::move(command));
}

void Supervisor::Reward(const internal::v1::RewardAnswer& answer) {
  internal::v1::WorkerCommand command;
  *command.mutable_reward() = answer;
  impl_->link().Send(std::move(command));
}

void Supervisor::Sample(const internal::v1::RunSample& sample) {
  internal::v1::WorkerCommand command;
  *command.mutable_sample() = sample;
  impl_->link().Send(std::move(command));
}

void Supervisor::CancelSample(int64_t id) {
  internal::v1::WorkerCommand command;
  command.mutable_cancel_sample()->set_id(id);
  impl_->link().Send(std::move(command));
}

void Supervisor::Acknowledge(int64_t sequence) {
  internal::v1::WorkerCommand command;
  command.set_acknowledged(sequence);
  impl_->link().Send(std::move(command));
}

void Supervisor::Shutdown() {
  internal::v1::WorkerCommand command;
  command.mutable_shutdown();
  impl_->link().Send(std::move(command));
}

void Supervisor::Kill(const std::string& why) { impl_->Kill(why); }

}  // namespace finetuned::supervisor
