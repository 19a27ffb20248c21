#include "server/api/server.h"

#include <unistd.h>

#include <condition_variable>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/api/adapters_service.h"
#include "server/api/admitted_service.h"
#include "server/api/audit_interceptor.h"
#include "server/api/daemon_service.h"
#include "server/api/datasets_service.h"
#include "server/api/front.h"
#include "server/api/jobs_service.h"
#include "server/api/rewards_service.h"
#include "server/auth/tcp_authenticator.h"
#include "server/auth/unix_listener.h"

namespace finetuned::api {
namespace {

constexpr char kJobsService[] = "finetuned.v1.Jobs";
constexpr char kGpuService[] = "gpu";
constexpr absl::Duration kHealthInterval = absl::Seconds(1);
constexpr int kMinPingIntervalMs = 20'000;   // clients ping every 30 s
constexpr int kKeepaliveMs = 60'000;         // find dead peers
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kWindowBytes = 16 << 10;
constexpr unsigned kCertificateSeconds = 2;  // changed certificate files are seen within this time

// Linking gRPC's reflection library puts it on every server; this takes it off one again.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

// Parts of the daemon that are clients of its own API, with no more rights than to see what anybody sees who
// may connect at all; they call nothing that changes anything.
class InProcess : public auth::Authenticator {
 public:
  absl::StatusOr<auth::Caller> Identify(const grpc::ServerContextBase&) const override { return auth::Caller{"web"}; }
};

// The services of one listener: they differ in who calls.
struct ServiceSet {
  ServiceSet(const Front& front, Admission* admission)
      : jobs(front), datasets(front), adapters(front), rewards(front), daemon(front) {
    for (const auto& [name, service] : std::initializer_list<std::pair<const char*, grpc::Service*>>{
             {"Jobs", &jobs}, {"Datasets", &datasets}, {"Adapters", &adapters}, {"Rewards", &rewards}, {"Daemon", &daemon}}) {
      admitted.push_back(std::make_unique<AdmittedService>(
          *v1::Job::descriptor()->file()->pool()->FindServiceByName(absl::StrCat("finetuned.v1.", name)), service, admission));
    }
  }
  void Register(grpc::ServerBuilder* builder) {
    for (const auto& service : admitted) builder->RegisterService(service.get());
  }
  JobsService jobs;
  DatasetsService datasets;
  AdaptersService adapters;
  RewardsService rewards;
  DaemonService daemon;
  std::vector<std::unique_ptr<AdmittedService>> admitted;
};

// `memory` is shared by all listeners: gRPC's own buffers. What bounds messages is the admission.
void SetLimits(const config::LimitsConfig& limits, const grpc::ResourceQuota& memory, grpc::ServerBuilder* builder) {
  builder->SetResourceQuota(memory);
  builder->SetMaxReceiveMessageSize(static_cast<int>(limits.max_message_bytes));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, static_cast<int>(limits.max_streams_per_connection));
  // What a stream may send before its message is asked for: kept small, and so for good.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindowBytes);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
}

Admission::Options MessageLimits(const config::LimitsConfig& limits) {
  Admission::Options options;
  options.total_bytes = limits.max_rpc_memory_bytes;
  options.message_bytes = limits.max_message_bytes;
  return options;
}

absl::Status CheckPem(const std::string& key, const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (in && absl::StrContains(text.str(), "-----BEGIN ")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, " ", path, " cannot be read, or is no PEM file"));
}

// What the TCP listener speaks. Never lets anybody in without a token or a certificate, and never sends
// a token over a network in the clear.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TcpCredentials(const config::TcpConfig& tcp) {
  const bool tls = !tcp.tls_certificate.empty() && !tcp.tls_key.empty();
  if (tcp.token_file.empty() && (!tls || tcp.tls_client_ca.empty())) {
    return absl::FailedPreconditionError(
        "tcp.address needs tcp.token_file, or TLS with tcp.tls_client_ca: without them anybody who can reach "
        "it could use this machine");
  }
  if (!tls) {
    if (!config::IsLoopback(tcp.address)) {
      return absl::FailedPreconditionError(
          absl::StrCat("tcp.address ", tcp.address, " is not loopback: it also needs tcp.tls_certificate and "
                       "tcp.tls_key, or the token would cross the network in the clear"));
    }
    return grpc::InsecureServerCredentials();
  }
  for (const auto& [key, path] : {std::pair{"tcp.tls_certificate", tcp.tls_certificate},
                                  std::pair{"tcp.tls_key", tcp.tls_key},
                                  std::pair{"tcp.tls_client_ca", tcp.tls_client_ca}}) {
    if (absl::Status status = CheckPem(key, path); !status.ok()) return status;
  }
  namespace tls_api = grpc::experimental;
  tls_api::TlsServerCredentialsOptions options(std::make_shared<tls_api::FileWatcherCertificateProvider>(
      tcp.tls_key, tcp.tls_certificate, tcp.tls_client_ca, kCertificateSeconds));
  options.watch_identity_key_cert_pairs();
  if (!tcp.tls_client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls_api::TlsServerCredentials(options);
}

}  // namespace

class Server::Impl {
 public:
  explicit Impl(const jobs::Daemon& daemon) : shared_(daemon), admission_(MessageLimits(daemon.config->limits)), memory_("finetuned") {
    memory_.Resize(static_cast<size_t>(daemon.config->limits.max_rpc_memory_bytes));
    shared_.on_drain = [this] { BeginDrain(); };
    const config::AuditConfig& audit = daemon.config->audit;
    if (audit.enabled) {
      audit_.emplace(daemon.store->layout().AuditLog(), audit.max_bytes, audit.files);
    }
  }
  ~Impl() { Shutdown(absl::ZeroDuration()); }

  absl::Status Start();
  void BeginDrain();
  void Shutdown(absl::Duration grace);
  absl::Status Reload();
  int tcp_port() const { return tcp_port_; }
  std::shared_ptr<grpc::Channel> LocalChannel() const { return local_server_->InProcessChannel({}); }

 private:
  absl::Status StartUnix();
  absl::Status StartLocal();
  absl::Status StartTcp();
  // Every server needs it; `authenticator` is for the audit log, nullptr: what this server does is not of interest.
  void Intercept(const auth::Authenticator* authenticator, grpc::ServerBuilder* builder);
  void AuditOwn(const std::string& method, const absl::Status& status);
  void SetHealth(const std::string& service, bool serving);
  void UpdateHealth();
  void HealthLoop();

  Shared shared_;
  std::optional<audit::AuditLog> audit_;
  std::unique_ptr<auth::UnixListener> unix_listener_;
  std::unique_ptr<auth::TcpAuthenticator> tcp_authenticator_;
  InProcess in_process_;
  Admission admission_;  // outlives the servers
  grpc::ResourceQuota memory_;
  std::unique_ptr<ServiceSet> unix_services_, tcp_services_, local_services_;
  std::unique_ptr<grpc::Server> unix_server_, tcp_server_, local_server_;
  int tcp_port_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread health_;
};

void Server::Impl::Intercept(const auth::Authenticator* authenticator, grpc::ServerBuilder* builder) {
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeAdmissionInterceptor(&admission_));
  if (audit_.has_value() && authenticator != nullptr) {
    interceptors.push_back(MakeAuditInterceptor(&*audit_, authenticator));
  }
  builder->experimental().SetInterceptorCreators(std::move(interceptors));
}

void Server::Impl::AuditOwn(const std::string& method, const absl::Status& status) {
  if (!audit_.has_value()) return;
  audit::Entry entry;
  entry.time = absl::Now();
  entry.principal = "daemon";
  entry.method = method;
  entry.code = absl::StatusCodeToString(status.code());
  audit_->Write(entry);
}

absl::Status Server::Impl::Reload() {
  const absl::Status status = tcp_authenticator_ == nullptr ? absl::OkStatus() : tcp_authenticator_->Reload();
  AuditOwn("daemon/reload", status);
  return status;
}

absl::Status Server::Impl::StartUnix() {
  const config::Config& config = *shared_.daemon.config;
  auth::UnixListener::Options options;
  options.path = config.socket.path;
  options.allowed_uids = {0, geteuid()};
  for (const int64_t uid : config.socket.allowed_uids) options.allowed_uids.insert(static_cast<uid_t>(uid));
  if (!config.socket.allowed_uids.empty()) options.mode = 0666;  // the kernel's credentials decide
  auto listener = auth::UnixListener::Create(std::move(options));
  if (!listener.ok()) return listener.status();
  unix_listener_ = *std::move(listener);
  unix_services_ = std::make_unique<ServiceSet>(Front{&shared_, unix_listener_.get()}, &admission_);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(config.limits, memory_, &builder);
  Intercept(unix_listener_.get(), &builder);
  unix_services_->Register(&builder);
  unix_server_ = builder.BuildAndStart();
  if (unix_server_ == nullptr) return absl::InternalError("the gRPC server of the Unix socket did not start");
  unix_listener_->Serve(unix_server_.get());
  return absl::OkStatus();
}

absl::Status Server::Impl::StartTcp() {
  const config::Config& config = *shared_.daemon.config;
  if (config.tcp.address.empty()) return absl::OkStatus();
  const auto credentials = TcpCredentials(config.tcp);
  if (!credentials.ok()) return credentials.status();
  std::unique_ptr<auth::TokenFile> tokens;
  if (!config.tcp.token_file.empty()) {
    auto read = auth::TokenFile::Open(config.tcp.token_file);
    if (!read.ok()) return read.status();
    tokens = *std::move(read);
  }
  tcp_authenticator_ = std::make_unique<auth::TcpAuthenticator>(std::move(tokens));
  tcp_services_ = std::make_unique<ServiceSet>(Front{&shared_, tcp_authenticator_.get()}, &admission_);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(config.limits, memory_, &builder);
  Intercept(tcp_authenticator_.get(), &builder);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(config.tcp.address, *credentials, &tcp_port_);
  tcp_services_->Register(&builder);
  tcp_server_ = builder.BuildAndStart();
  if (tcp_server_ == nullptr || tcp_port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on tcp.address ", config.tcp.address));
  }
  return absl::OkStatus();
}

// Listens nowhere: reached by InProcessChannel.
absl::Status Server::Impl::StartLocal() {
  local_services_ = std::make_unique<ServiceSet>(Front{&shared_, &in_process_}, &admission_);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(shared_.daemon.config->limits, memory_, &builder);
  Intercept(nullptr, &builder);
  local_services_->Register(&builder);
  local_server_ = builder.BuildAndStart();
  return local_server_ != nullptr ? absl::OkStatus()
                                  : absl::InternalError("the gRPC server inside the process did not start");
}

absl::Status Server::Impl::Start() {
  grpc::EnableDefaultHealthCheckService(true);
  absl::Status status = StartLocal();
  if (status.ok()) status = StartTcp();  // before the socket: a socket file appears only when everything is up
  if (status.ok()) status = StartUnix();
  if (!status.ok()) return status;
  UpdateHealth();
  health_ = std::thread([this] { HealthLoop(); });
  AuditOwn("daemon/start", status);
  return absl::OkStatus();
}

void Server::Impl::SetHealth(const std::string& service, bool serving) {
  for (grpc::Server* server : {unix_server_.get(), tcp_server_.get()}) {
    if (server == nullptr) continue;
    if (auto* health = server->GetHealthCheckService()) health->SetServingStatus(service, serving);
  }
}

void Server::Impl::UpdateHealth() {
  const jobs::WorkerStatus worker = shared_.daemon.jobs->Worker();
  const bool gpu = worker.hello.has_value() && absl::StartsWith(worker.hello->device(), "cuda") &&
                   worker.problem.empty();
  const bool accepting = shared_.daemon.jobs->accepting();
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return;
  SetHealth(kJobsService, accepting && !draining_);
  SetHealth(kGpuService, gpu);
}

void Server::Impl::HealthLoop() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (wake_.wait_for(lock, absl::ToChronoNanoseconds(kHealthInterval), [this] { return stopping_; })) return;
    }
    UpdateHealth();
  }
}

void Server::Impl::BeginDrain() {
  std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
  SetHealth(kJobsService, false);
}

void Server::Impl::Shutdown(absl::Duration grace) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (const char* service : {"", kJobsService, kGpuService}) SetHealth(service, false);
  }
  wake_.notify_all();
  const bool served = health_.joinable();
  if (served) health_.join();
  if (unix_listener_ != nullptr) unix_listener_->Stop();
  const auto deadline = absl::ToChronoTime(absl::Now() + grace);
  for (grpc::Server* server : {local_server_.get(), tcp_server_.get(), unix_server_.get()}) {
    if (server != nullptr) server->Shutdown(deadline);
  }
  if (served) AuditOwn("daemon/stop", absl::OkStatus());
  // Shutdown returned: no call is left, so nothing posts to the pools any more.
  shared_.quick.Close();
  shared_.slow.Close();
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const jobs::Daemon& daemon) {
  auto impl = std::make_unique<Impl>(daemon);
  const absl::Status status = impl->Start();
  if (!status.ok()) return status;
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

absl::Status Server::Reload() { return impl_->Reload(); }
void Server::BeginDrain() { impl_->BeginDrain(); }
void Server::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }
int Server::tcp_port() const { return impl_->tcp_port(); }
std::shared_ptr<grpc::Channel> Server::LocalChannel() const { return impl_->LocalChannel(); }

}  // namespace finetuned::api
