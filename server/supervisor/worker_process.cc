#include "server/supervisor/worker_process.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/config/log.h"

extern char** environ;

namespace finetuned::supervisor {
namespace {

constexpr int kLockFd = 4;
constexpr int kFirstFree = 16;  // above every number that the child gives a meaning

absl::Status Errno(const std::string& what) {
  return absl::UnavailableError(absl::StrCat("cannot be started: ", what, ": ", std::strerror(errno)));
}

absl::StatusOr<std::pair<Fd, Fd>> Pipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return Errno("pipe");
  return std::pair<Fd, Fd>(Fd(fds[0]), Fd(fds[1]));
}

// Everything the child needs between fork and exec, where nothing may allocate.
struct Prepared {
  std::vector<char*> argv, envp;
  const char* binary;
  int null, output, token, lock, status;
  pid_t parent;
};

[[noreturn]] void RunChild(const Prepared& p) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != p.parent) _exit(127);  // the daemon died before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGCHLD}) std::signal(signal, SIG_DFL);
  // First out of the way, then to the final numbers: no descriptor is overwritten before it is moved.
  const int status = fcntl(p.status, F_DUPFD_CLOEXEC, kFirstFree);
  const int output = fcntl(p.output, F_DUPFD, kFirstFree);
  const int token = fcntl(p.token, F_DUPFD, kFirstFree);
  const int lock = fcntl(p.lock, F_DUPFD, kFirstFree);
  dup2(p.null, 0);
  dup2(output, 1);
  dup2(output, 2);
  dup2(token, kTokenFd);
  dup2(lock, kLockFd);
  const int report = kLockFd + 1;
  dup3(status, report, O_CLOEXEC);
  syscall(SYS_close_range, report + 1, ~0U, 0);
  execve(p.binary, p.argv.data(), p.envp.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(report, &error, sizeof error);
  _exit(127);
}

// What systemd told the daemon about itself is not the worker's.
bool ForWorker(const char* variable) {
  for (const char* own : {"NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=", "JOURNAL_STREAM=",
                          "LISTEN_FDS=", "LISTEN_PID="}) {
    if (absl::StartsWith(variable, own)) return false;
  }
  return true;
}

pid_t LockOwner(int fd) {
  char text[32] = {};
  int pid = 0;
  if (pread(fd, text, sizeof text - 1, 0) <= 0) return 0;
  return absl::SimpleAtoi(text, &pid) && pid > 1 ? pid : 0;
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.fd_;
    other.fd_ = -1;
  }
  return *this;
}

void Fd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<Child> Launch(const LaunchOptions& options) {
  auto output = Pipe();
  auto token = Pipe();
  auto status = Pipe();
  for (const auto* pipe : {&output, &token, &status}) {
    if (!pipe->ok()) return pipe->status();
  }
  const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (null.get() < 0) return Errno("/dev/null");
  if (write(token->second.get(), options.token.data(), options.token.size()) !=
      static_cast<ssize_t>(options.token.size())) {
    return Errno("token");
  }
  Prepared prepared = {{}, {}, options.binary.c_str(), null.get(), output->second.get(),
                       token->first.get(), options.lock_fd, status->second.get(), getpid()};
  prepared.argv.push_back(const_cast<char*>(options.binary.c_str()));
  for (const std::string& a : options.arguments) prepared.argv.push_back(const_cast<char*>(a.c_str()));
  prepared.argv.push_back(nullptr);
  for (char** v = environ; *v != nullptr; ++v) {
    if (ForWorker(*v)) prepared.envp.push_back(*v);
  }
  prepared.envp.push_back(nullptr);

  Child child;
  child.pid = fork();
  if (child.pid < 0) return Errno("fork");
  if (child.pid == 0) RunChild(prepared);
  status->second.Reset();
  int error = 0;
  if (read(status->first.get(), &error, sizeof error) == sizeof error) {
    waitpid(child.pid, nullptr, 0);
    const std::string name = options.binary.substr(options.binary.rfind('/') + 1);
    return absl::UnavailableError(
        absl::StrCat("cannot be started: ", name, ": ", std::strerror(error)));
  }
  child.pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0)));
  child.output = std::move(output->first);
  fcntl(child.output.get(), F_SETFL, O_NONBLOCK);
  return child;
}

std::string Reap(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  kill(-pid, SIGKILL);  // children of the child
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    return absl::StrCat("was killed by signal ", signal, " (", strsignal(signal), ")");
  }
  return absl::StrCat("ended with code ", WEXITSTATUS(status));
}

absl::StatusOr<Fd> LockAgainstOrphan(const std::string& path, absl::Duration grace) {
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (fd.get() < 0) return Errno("worker.lock");
  const absl::Time kill_at = absl::Now() + grace;
  const absl::Time give_up_at = kill_at + absl::Seconds(10);
  bool killed = false;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    const pid_t owner = LockOwner(fd.get());
    const absl::Time now = absl::Now();
    if (now >= give_up_at) {
      return absl::UnavailableError(
          absl::StrCat("cannot be started: that of an earlier daemon, process ", owner, ", does not end"));
    }
    if (now >= kill_at && !killed && owner > 1) {
      LogWarning(absl::StrCat("killing the worker of an earlier daemon, process ", owner));
      kill(-owner, SIGKILL);
      killed = true;
    }
    absl::SleepFor(absl::Milliseconds(50));
  }
  return fd;
}

void WriteLockOwner(const Fd& lock, pid_t pid) {
  const std::string text = absl::StrCat(pid, "\n");
  if (ftruncate(lock.get(), 0) != 0 || pwrite(lock.get(), text.data(), text.size(), 0) < 0) {
    LogWarning("the worker's lock file cannot be written");
  }
}

std::string RandomToken() {
  char bytes[32];
  for (size_t done = 0; done < sizeof bytes;) {
    const ssize_t n = getrandom(bytes + done, sizeof bytes - done, 0);
    if (n < 0 && errno != EINTR) std::abort();  // no randomness, no safety
    if (n > 0) done += static_cast<size_t>(n);
  }
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

}  // namespace finetuned::supervisor
