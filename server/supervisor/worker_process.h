#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Processes and file locks, without any knowledge of the link.
namespace finetuned::supervisor {

// A file descriptor that is closed.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { Reset(); }
  int get() const { return fd_; }
  void Reset();

 private:
  int fd_ = -1;
};

struct LaunchOptions {
  std::string binary;
  std::vector<std::string> arguments;  // without the program's name
  std::string token;                   // readable from kTokenFd
  int lock_fd = -1;                    // kept open by the child: its lock ends with it
};
inline constexpr int kTokenFd = 3;

struct Child {
  pid_t pid = -1;
  Fd output;   // stdout and stderr, non-blocking
  Fd pidfd;    // readable when it has ended
};

// Starts the program in a process group of its own. It inherits nothing but standard input (/dev/null),
// output, kTokenFd and the lock, and gets SIGTERM when the calling thread or process ends.
// UNAVAILABLE names why it cannot be started.
absl::StatusOr<Child> Launch(const LaunchOptions& options);

// Waits for the child's end, without leaving anything of its group behind: "was killed by signal 11
// (Segmentation fault)", "ended with code 1".
std::string Reap(pid_t pid);

// Opens `path` and locks it. While another process holds the lock, waits up to `grace`, then kills the
// process group written in the file. UNAVAILABLE when that does not help.
absl::StatusOr<Fd> LockAgainstOrphan(const std::string& path, absl::Duration grace);
// Writes whom to kill into the locked file.
void WriteLockOwner(const Fd& lock, pid_t pid);

// 256 random bits as 64 hexadecimal digits.
std::string RandomToken();

}  // namespace finetuned::supervisor
