#include "server/supervisor/command.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/supervisor/worker_process.h"

extern char** environ;

namespace finetuned::supervisor {
namespace {

constexpr size_t kKept = 1 << 20;

struct Pipe {
  Fd read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::UnavailableError(absl::StrCat("no pipe: ", std::strerror(errno)));
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

// Reads what is there. False at the end.
bool Drain(const Fd& fd, std::string* out) {
  char buffer[4096];
  const ssize_t n = read(fd.get(), buffer, sizeof buffer);
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  out->append(buffer, std::min(static_cast<size_t>(n), kKept - std::min(kKept, out->size())));
  return n > 0;
}

int ExitCode(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

}  // namespace

absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& arguments, absl::Duration limit) {
  auto out = MakePipe(), err = MakePipe();
  if (!out.ok()) return out.status();
  if (!err.ok()) return err.status();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out->write.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err->write.get(), 2);
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  // The daemon blocks the signals that it reads itself; the program gets them as usual.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  const int failed = posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return absl::UnavailableError(absl::StrCat(arguments[0], ": ", std::strerror(failed)));
  out->write.Reset();
  err->write.Reset();

  CommandResult result;
  const absl::Time deadline = absl::Now() + limit;
  bool open[2] = {true, true}, late = false;
  while (open[0] || open[1]) {
    pollfd fds[2] = {{open[0] ? out->read.get() : -1, POLLIN, 0}, {open[1] ? err->read.get() : -1, POLLIN, 0}};
    const absl::Duration left = deadline - absl::Now();
    const int ready = poll(fds, 2, static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(left))));
    if (ready == 0) {
      late = true;
      kill(pid, SIGKILL);
      break;
    }
    if (fds[0].revents != 0) open[0] = Drain(out->read, &result.output);
    if (fds[1].revents != 0) open[1] = Drain(err->read, &result.errors);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (late) return absl::DeadlineExceededError(absl::StrCat(arguments[0], " gave no answer in ", absl::FormatDuration(limit)));
  result.code = ExitCode(status);
  return result;
}

}  // namespace finetuned::supervisor
