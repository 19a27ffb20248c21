#include "server/auth/unix_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include <grpcpp/server_posix.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace finetuned::auth {
namespace {

constexpr int kBacklog = 128;
// Descriptor numbers of connections go round this range, so that a number is not used again while calls
// of the connection that had it may still be on their way.
constexpr int kFirstNumber = 128;
constexpr int kNumbers = 512;

absl::Status Errno(const std::string& doing) {
  return absl::ErrnoToStatus(errno, absl::StrCat("Unix socket: ", doing));
}

// Removes the socket of a daemon that is gone. ALREADY_EXISTS when one answers.
absl::Status RemoveStale(const sockaddr_un& address) {
  struct stat info;
  if (lstat(address.sun_path, &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Errno(absl::StrCat("look at ", address.sun_path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(address.sun_path, " exists and is not a socket; remove it or set socket.path"));
  }
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return Errno("create");
  const bool alive =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(probe);
  if (alive) {
    return absl::AlreadyExistsError(absl::StrCat("a daemon already listens on ", address.sun_path));
  }
  return unlink(address.sun_path) == 0 ? absl::OkStatus() : Errno("remove the old socket");
}

absl::StatusOr<int> Bind(const sockaddr_un& address, mode_t mode) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Errno("create");
  // The mode set before bind is the mode the file is born with; the umask may only narrow it.
  if (fchmod(fd, mode) != 0 ||
      bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(address.sun_path, mode) != 0 || listen(fd, kBacklog) != 0) {
    const absl::Status status = Errno(absl::StrCat("listen on ", address.sun_path));
    close(fd);
    return status;
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<UnixListener>> UnixListener::Create(Options options) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options.path.empty() || options.path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket.path has ", options.path.size(),
                                                   " bytes; 1 to ", sizeof(address.sun_path) - 1,
                                                   " are possible"));
  }
  std::memcpy(address.sun_path, options.path.data(), options.path.size());
  const std::filesystem::path folder = std::filesystem::path(options.path).parent_path();
  std::error_code error;
  if (!folder.empty() && !std::filesystem::exists(folder, error)) {
    std::filesystem::create_directories(folder, error);
    if (error) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot make the socket's folder ", folder.string(), ": ", error.message()));
    }
    const mode_t folder_mode = (options.mode & 0066) != 0 ? 0755 : 0700;
    if (chmod(folder.c_str(), folder_mode) != 0) return Errno("set the folder's mode");
  }
  absl::Status status = RemoveStale(address);
  if (!status.ok()) return status;
  absl::StatusOr<int> fd = Bind(address, options.mode);
  if (!fd.ok()) return fd.status();
  struct stat info{};
  stat(address.sun_path, &info);
  const int wake_fd = eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) return Errno("eventfd");
  return std::unique_ptr<UnixListener>(
      new UnixListener(std::move(options), *fd, wake_fd, info.st_ino));
}

UnixListener::~UnixListener() { Stop(); }

void UnixListener::Serve(grpc::Server* server) {
  thread_ = std::thread([this, server] { AcceptLoop(server); });
}

void UnixListener::Stop() {
  if (fd_ < 0) return;
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!write(wake_fd_, &one, sizeof(one));
    thread_.join();
  }
  // Another daemon may have put its own socket here since.
  struct stat info;
  if (lstat(options_.path.c_str(), &info) == 0 && info.st_ino == inode_) unlink(options_.path.c_str());
  close(fd_);
  close(wake_fd_);
  fd_ = wake_fd_ = -1;
}

void UnixListener::AcceptLoop(grpc::Server* server) {
  for (;;) {
    pollfd fds[] = {{fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    if ((fds[0].revents & POLLIN) != 0 && !AcceptOne(server)) {
      // Out of descriptors or memory: leave the connection in the backlog for a moment.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
}

bool UnixListener::AcceptOne(grpc::Server* server) {
  int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    close(fd);
    return true;
  }
  fd = MoveToFreshNumber(fd);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    uid_of_fd_[fd] = credentials.uid;
  }
  grpc::AddInsecureChannelFromFd(server, fd);
  return true;
}

int UnixListener::MoveToFreshNumber(int fd) {
  const int moved = fcntl(fd, F_DUPFD_CLOEXEC, kFirstNumber + next_number_);
  next_number_ = (next_number_ + 1) % kNumbers;
  if (moved < 0) return fd;
  close(fd);
  return moved;
}

absl::StatusOr<Caller> UnixListener::Identify(const grpc::ServerContextBase& context) const {
  return IdentifyPeer(context.peer());
}

absl::StatusOr<Caller> UnixListener::IdentifyPeer(std::string_view peer) const {
  int fd = -1;
  uid_t uid = 0;
  const absl::string_view name(peer.data(), peer.size());
  absl::string_view number = name;
  if (!absl::ConsumePrefix(&number, "fd:") || !absl::SimpleAtoi(number, &fd)) {
    return absl::UnauthenticatedError(absl::StrCat("the peer ", name, " is not on the Unix socket"));
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = uid_of_fd_.find(fd);
    if (found == uid_of_fd_.end()) {
      return absl::UnauthenticatedError("the connection's user is not known");
    }
    uid = found->second;
  }
  if (!options_.allowed_uids.contains(uid)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "user id ", uid, " may not use this daemon; its configuration lists users in socket.allowed_uids"));
  }
  return Caller{absl::StrCat("uid:", uid), /*local=*/true};
}

}  // namespace finetuned::auth
