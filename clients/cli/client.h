#pragma once

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "finetuned/v1/adapters.grpc.pb.h"
#include "finetuned/v1/daemon.grpc.pb.h"
#include "finetuned/v1/datasets.grpc.pb.h"
#include "finetuned/v1/jobs.grpc.pb.h"

namespace finetuned::cli {

// Exit codes of the CLI.
enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2, kUnreachable = 3, kInterrupted = 130 };

struct ConnectOptions {
  std::string server;      // "unix:///path" or "host:port"; empty: the default socket
  std::string token_file;  // bearer token for TCP
  std::string ca_file;     // PEM of the server's certificate authority; with it TCP uses TLS
  std::string cert_file, key_file;  // client certificate (mTLS)
};

// The stubs of one connection to the daemon.
class Client {
 public:
  explicit Client(const ConnectOptions& options);

  // Context with the call's deadline (0: none) and credentials.
  std::unique_ptr<grpc::ClientContext> Context(double seconds = 10) const;
  const std::string& target() const { return target_; }

  std::unique_ptr<v1::Jobs::Stub> jobs;
  std::unique_ptr<v1::Datasets::Stub> datasets;
  std::unique_ptr<v1::Adapters::Stub> adapters;
  std::unique_ptr<v1::Daemon::Stub> daemon;

 private:
  std::string target_;
  std::string token_;
};

// Thrown by commands for an error of the user's machine or input; main prints it and exits.
struct CommandError {
  ExitCode code;
  std::string message;
};

// Throws CommandError with the daemon's explanation when the call did not succeed.
void Check(const grpc::Status& status, const Client& client);

// The daemon's answer as text: message, field violations, what to do. One line per finding.
std::string DescribeStatus(const grpc::Status& status);
// What the user can do about it, when the daemon's own words do not say; "" when nothing is known.
std::string AdviceFor(const grpc::Status& status);
ExitCode ExitCodeFor(const grpc::Status& status);

// A version 4 UUID for request_id.
std::string NewRequestId();

// "jobs/x" from "x" or "jobs/x".
std::string ResourceName(const std::string& collection, const std::string& id);
// "x" from "jobs/x".
std::string ShortName(const std::string& name);

}  // namespace finetuned::cli
