#include "server/config/config.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <yaml-cpp/yaml.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/default_socket.h"
#include "proto/spec/yaml_message.h"

namespace finetuned::config {
namespace {

std::string DefaultStateDir() {
  if (geteuid() == 0) return "/var/lib/finetuned";
  if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data == '/') {
    return absl::StrCat(data, "/finetuned");
  }
  const char* home = std::getenv("HOME");
  return absl::StrCat(home != nullptr ? home : "/tmp", "/.local/share/finetuned");
}

// finetune-worker of an installation stands beside finetuned; of a build tree, in its own folder.
std::string DefaultWorkerBinary() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto beside = self.parent_path() / "finetune-worker";
  if (std::filesystem::exists(beside, error)) return beside.string();
  return (self.parent_path().parent_path() / "engine/worker/finetune-worker").string();
}

void FillDefaults(Config* c) {
  if (c->state_dir().empty()) c->set_state_dir(DefaultStateDir());
  if (c->socket().path().empty()) c->mutable_socket()->set_path(spec::DefaultSocketPath());
  auto* worker = c->mutable_worker();
  if (worker->binary().empty()) worker->set_binary(DefaultWorkerBinary());
  if (worker->device().empty()) worker->set_device("auto");
  if (!worker->has_start_timeout()) worker->mutable_start_timeout()->set_seconds(120);
  if (!worker->has_heartbeat_timeout()) worker->mutable_heartbeat_timeout()->set_seconds(60);
  if (!worker->has_step_timeout()) worker->mutable_step_timeout()->set_seconds(1800);
  if (worker->max_crashes() == 0) worker->set_max_crashes(3);
  auto* metrics = c->mutable_metrics();
  if (metrics->address().empty()) metrics->set_address("127.0.0.1:9464");
  if (!metrics->has_job_series_ttl()) metrics->mutable_job_series_ttl()->set_seconds(300);
  auto* limits = c->mutable_limits();
  if (limits->max_queued_jobs() == 0) limits->set_max_queued_jobs(1000);
  if (limits->max_dataset_bytes() == 0) limits->set_max_dataset_bytes(10ll << 30);
  if (limits->max_watchers() == 0) limits->set_max_watchers(1000);
  if (limits->min_free_disk_bytes() == 0) limits->set_min_free_disk_bytes(1ll << 30);
}

absl::Status Bad(const std::string& name, const std::string& key, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(name, ", ", key, ": ", what));
}

absl::Status CheckTcp(const internal::v1::TcpConfig& tcp, const std::string& name) {
  if (tcp.address().empty()) return absl::OkStatus();
  const bool tls = !tcp.tls_cert_file().empty() && !tcp.tls_key_file().empty();
  const bool mtls = tls && !tcp.tls_client_ca_file().empty();
  if (tcp.token_file().empty() && !mtls) {
    return Bad(name, "tcp.address",
               "a TCP listener needs token_file, or tls_cert_file, tls_key_file and tls_client_ca_file; "
               "without them anybody could train on this machine");
  }
  const bool loopback = absl::StartsWith(tcp.address(), "127.") ||
                        absl::StartsWith(tcp.address(), "localhost:") ||
                        absl::StartsWith(tcp.address(), "[::1]:");
  if (!loopback && !tls) {
    return Bad(name, "tcp.address", "an address that is not loopback also needs tls_cert_file and "
                                    "tls_key_file: a token must not cross the network in the clear");
  }
  return absl::OkStatus();
}

absl::Status Check(const Config& c, const std::string& name) {
  if (c.state_dir().front() != '/') return Bad(name, "state_dir", "must be an absolute path");
  // sockaddr_un holds 108 bytes with the final zero.
  if (c.socket().path().size() > 107) {
    return Bad(name, "socket.path", absl::StrCat("has ", c.socket().path().size(),
                                                 " bytes; a Unix socket path may have 107"));
  }
  for (const auto& [model, path] : c.models()) {
    if (path.empty() || path.front() != '/') {
      return Bad(name, absl::StrCat("models.", model), absl::StrCat("must be an absolute path, got \"", path, "\""));
    }
  }
  for (const auto& root : c.model_roots()) {
    if (root.empty() || root.front() != '/') return Bad(name, "model_roots", "must be absolute paths");
  }
  const std::string& device = c.worker().device();
  if (device != "auto" && device != "cuda" && device != "cpu") {
    return Bad(name, "worker.device", absl::StrCat("must be auto, cuda or cpu, got \"", device, "\""));
  }
  if (c.worker().cpu_threads() < 0 || c.worker().cpu_threads() > 4096) {
    return Bad(name, "worker.cpu_threads", "must be 0 to 4096");
  }
  if (c.worker().max_crashes() < 1) return Bad(name, "worker.max_crashes", "must be at least 1");
  if (c.vram_budget_bytes() < 0) return Bad(name, "vram_budget_bytes", "must not be negative");
  if (!absl::StrContains(c.metrics().address(), ":")) {
    return Bad(name, "metrics.address", "must be HOST:PORT");
  }
  return CheckTcp(c.tcp(), name);
}

}  // namespace

Config DefaultConfig() {
  Config c;
  FillDefaults(&c);
  return c;
}

absl::StatusOr<Config> ParseConfig(const std::string& text, const std::string& name) {
  Config config;
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsNull()) {
      spec::YamlReader reader(name);
      const absl::Status status = reader.ReadInto(root, {&config});
      if (!status.ok()) return status;
    }
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(name, " line ", e.mark.line + 1, ": ", e.msg));
  }
  FillDefaults(&config);
  const absl::Status status = Check(config, name);
  if (!status.ok()) return status;
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read the configuration ", path));
  std::stringstream text;
  text << in.rdbuf();
  return ParseConfig(text.str(), path);
}

}  // namespace finetuned::config
