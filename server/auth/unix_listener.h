#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>

#include <grpcpp/server.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/auth/caller.h"

namespace finetuned::auth {

// The daemon's Unix socket. It accepts connections itself, asks the kernel for the user at the other end
// (SO_PEERCRED) and hands the descriptor to a gRPC server, whose calls then name it as peer "fd:N": gRPC's
// own listener would not tell the user. Create, Serve once, Stop; Identify from any thread.
class UnixListener : public Authenticator {
 public:
  struct Options {
    std::string path;
    std::set<uid_t> allowed_uids;  // complete: the daemon's own and root's only when listed
    mode_t mode = 0600;
  };

  // Binds and listens. Makes the folder (0700) when it is missing and replaces the socket of a daemon
  // that is gone. ALREADY_EXISTS: a live one listens there. INVALID_ARGUMENT: path too long.
  static absl::StatusOr<std::unique_ptr<UnixListener>> Create(Options options);
  ~UnixListener() override;

  // Starts accepting for `server`, which must outlive Stop().
  void Serve(grpc::Server* server);
  // No new connections; removes the socket file. Idempotent.
  void Stop();

  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override;
  // The same for a peer name; `peer` is "fd:N".
  absl::StatusOr<Caller> IdentifyPeer(std::string_view peer) const;

 private:
  UnixListener(Options options, int fd, int wake_fd, ino_t inode)
      : options_(std::move(options)), fd_(fd), wake_fd_(wake_fd), inode_(inode) {}
  void AcceptLoop(grpc::Server* server);
  bool AcceptOne(grpc::Server* server);
  int MoveToFreshNumber(int fd);

  const Options options_;
  int fd_;
  int wake_fd_;
  ino_t inode_;
  int next_number_ = 0;  // accept thread only
  std::thread thread_;
  mutable std::mutex mutex_;
  std::unordered_map<int, uid_t> uid_of_fd_;
};

}  // namespace finetuned::auth
