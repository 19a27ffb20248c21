#pragma once

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/jobs/job_manager.h"

namespace finetuned::api {

// The daemon's front: the services of finetuned.v1 with health and reflection, on the Unix socket
// (kernel peer credentials: the daemon's own user and root) and, when configured, on TCP (token or
// client certificate; without either it refuses to start).
//
//   Start -> ... -> Shutdown, or the destructor. Thread safe.
class Server {
 public:
  // Listens. ALREADY_EXISTS: another daemon has the socket. INVALID_ARGUMENT, FAILED_PRECONDITION:
  // the configuration of a listener. What `daemon` points to must outlive this object.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const jobs::Daemon& daemon);
  ~Server();

  // Tells health checks at once that no new jobs are taken; call before JobManager::Drain. Afterwards
  // health follows JobManager::accepting() by itself.
  void BeginDrain();
  // No new calls; running ones have `grace` to end, then they are cancelled. Idempotent.
  // REQUIRES: JobManager::Stop() was called or the grace is short: watches end only then.
  void Shutdown(absl::Duration grace);

  // Reads the token file again (SIGHUP). Certificates are read again by themselves. INVALID_ARGUMENT: the file is
  // wrong; the tokens stay what they were.
  absl::Status Reload();

  int tcp_port() const;  // 0: no TCP listener
  // For parts of the daemon that are clients of its API (the web page). Whoever uses it must not call
  // anything that changes something: its calls are of nobody. Ends with Shutdown.
  std::shared_ptr<grpc::Channel> LocalChannel() const;

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace finetuned::api
