#include "clients/cli/client.h"

#include <sys/random.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "proto/spec/default_socket.h"

namespace finetuned::cli {
namespace {

std::string ReadFileOrThrow(const std::string& path, const char* what) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw CommandError{kUsage, absl::StrCat("cannot read ", what, " ", path)};
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ConnectOptions& options, bool unix_socket) {
  if (unix_socket || options.ca_file.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = ReadFileOrThrow(options.ca_file, "the CA file");
  if (!options.cert_file.empty()) {
    ssl.pem_cert_chain = ReadFileOrThrow(options.cert_file, "the client certificate");
    ssl.pem_private_key = ReadFileOrThrow(options.key_file, "the client key");
  }
  return grpc::SslCredentials(ssl);
}

template <class Detail>
bool Unpack(const google::protobuf::Any& any, Detail* detail) {
  return any.Is<Detail>() && any.UnpackTo(detail);
}

void AppendDetail(const google::protobuf::Any& any, std::string* out) {
  google::rpc::BadRequest bad;
  google::rpc::PreconditionFailure precondition;
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  if (Unpack(any, &bad)) {
    for (const auto& v : bad.field_violations()) {
      const std::string line = absl::StrCat(v.field(), v.field().empty() ? "" : ": ", v.description());
      if (*out != line) absl::StrAppend(out, "\n  ", line);
    }
  } else if (Unpack(any, &precondition)) {
    for (const auto& v : precondition.violations()) absl::StrAppend(out, "\n  ", v.description());
  } else if (Unpack(any, &info)) {
    const auto it = info.metadata().find("suggestion");
    if (it != info.metadata().end() && !absl::StrContains(*out, it->second)) {
      absl::StrAppend(out, "\n  try: ", it->second);
    }
  } else if (Unpack(any, &retry)) {
    absl::StrAppend(out, "\n  try again in ", std::max<int64_t>(1, retry.retry_delay().seconds()), " s");
  }
}

}  // namespace

Client::Client(const ConnectOptions& options) {
  target_ = options.server;
  if (target_.empty()) target_ = absl::StrCat("unix://", spec::DefaultSocketPath());
  const bool unix_socket = absl::StartsWith(target_, "unix:");
  if (!options.token_file.empty()) {
    token_ = ReadFileOrThrow(options.token_file, "the token file");
    while (!token_.empty() && (token_.back() == '\n' || token_.back() == '\r')) token_.pop_back();
  }
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(8 << 20);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  auto channel = grpc::CreateCustomChannel(target_, Credentials(options, unix_socket), args);
  jobs = v1::Jobs::NewStub(channel);
  datasets = v1::Datasets::NewStub(channel);
  adapters = v1::Adapters::NewStub(channel);
  daemon = v1::Daemon::NewStub(channel);
}

std::unique_ptr<grpc::ClientContext> Client::Context(double seconds) const {
  auto context = std::make_unique<grpc::ClientContext>();
  if (seconds > 0) {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)));
  }
  if (!token_.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token_));
  return context;
}

std::string DescribeStatus(const grpc::Status& status) {
  std::string out = status.error_message();
  google::rpc::Status rich;
  if (!status.error_details().empty() && rich.ParseFromString(status.error_details())) {
    for (const auto& any : rich.details()) AppendDetail(any, &out);
  }
  return out;
}

ExitCode ExitCodeFor(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::UNIMPLEMENTED:
      return kUsage;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return kUnreachable;
    default:
      return kFailed;
  }
}

std::string AdviceFor(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::NOT_FOUND: return "see what there is: finetune ls, finetune datasets, finetune adapters";
    case grpc::StatusCode::UNAUTHENTICATED: return "give the daemon's token: --token-file FILE";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "ask the administrator to add your user to socket.allowed_uids (id -u)";
    case grpc::StatusCode::ALREADY_EXISTS: return "choose another --name, or leave it out";
    case grpc::StatusCode::ABORTED: return "look at it again and repeat: finetune get JOB";
    case grpc::StatusCode::DEADLINE_EXCEEDED: return "the daemon is overloaded or hangs: finetune doctor";
    case grpc::StatusCode::UNIMPLEMENTED: return "compare versions: finetune --version, finetune info";
    case grpc::StatusCode::DATA_LOSS: return "repeat it; the bytes arrived damaged";
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN: return "look into the daemon's log: journalctl -u finetuned";
    default: return "";
  }
}

void Check(const grpc::Status& status, const Client& client) {
  if (status.ok()) return;
  std::string message = DescribeStatus(status);
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    message = absl::StrCat("no daemon answers at ", client.target(), " (", status.error_message(),
                           ")\n  start it with: finetuned\n  or name another: --server unix:///path");
  }
  const std::string advice = AdviceFor(status);
  if (!advice.empty() && !absl::StrContains(message, "\n  ")) absl::StrAppend(&message, "\n  ", advice);
  throw CommandError{ExitCodeFor(status), message};
}

std::string NewRequestId() {
  unsigned char b[16];
  if (getrandom(b, sizeof b, 0) != sizeof b) throw CommandError{kFailed, "no random numbers"};
  b[6] = static_cast<unsigned char>((b[6] & 0x0F) | 0x40);
  b[8] = static_cast<unsigned char>((b[8] & 0x3F) | 0x80);
  std::string id;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) id += '-';
    absl::StrAppendFormat(&id, "%02x", b[i]);
  }
  return id;
}

std::string ResourceName(const std::string& collection, const std::string& id) {
  const std::string prefix = collection + "/";
  return absl::StartsWith(id, prefix) ? id : prefix + id;
}

std::string ShortName(const std::string& name) {
  const size_t slash = name.find('/');
  return slash == std::string::npos ? name : name.substr(slash + 1);
}

}  // namespace finetuned::cli
