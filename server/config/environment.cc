// What depends on the machine and the user: defaults, environment, checks of files.
#include <arpa/inet.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/default_socket.h"
#include "proto/spec/nearest.h"
#include "server/config/beneath.h"
#include "server/config/config.h"

namespace finetuned::config {
namespace {

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string DefaultStateDir() {
  if (geteuid() == 0) return "/var/lib/finetuned";
  const std::string state = Env("XDG_STATE_HOME");
  if (absl::StartsWith(state, "/")) return state + "/finetuned";
  return Env("HOME") + "/.local/state/finetuned";
}

std::string DefaultWorkerBinary() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "finetune-worker").string();
}

absl::Status CheckFile(const char* key, const std::string& path) {
  if (path.empty() || access(path.c_str(), R_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(key, ": ", path, " cannot be read"));
}

absl::Status CheckTcp(const TcpConfig& tcp) {
  if (tcp.address.empty()) return absl::OkStatus();
  const bool tls = !tcp.tls_certificate.empty();
  if (tls != !tcp.tls_key.empty()) {
    return absl::InvalidArgumentError("tcp: tls_certificate and tls_key belong together");
  }
  if (!tls && !tcp.tls_client_ca.empty()) {
    return absl::InvalidArgumentError("tcp.tls_client_ca: needs tls_certificate and tls_key");
  }
  if (tcp.token_file.empty() && tcp.tls_client_ca.empty()) {
    return absl::InvalidArgumentError(
        "tcp.address: a TCP listener needs token_file, or tls_certificate, tls_key and tls_client_ca: "
        "without them anybody could use the device");
  }
  if (!tls && !IsLoopback(tcp.address)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tcp.address: ", tcp.address,
        " is reachable from other machines and needs tls_certificate and tls_key: a token must not cross "
        "the network in the clear"));
  }
  for (const auto& [key, path] : {std::pair{"tcp.tls_certificate", tcp.tls_certificate},
                                  std::pair{"tcp.tls_key", tcp.tls_key},
                                  std::pair{"tcp.tls_client_ca", tcp.tls_client_ca},
                                  std::pair{"tcp.token_file", tcp.token_file}}) {
    if (absl::Status status = CheckFile(key, path); !status.ok()) return status;
  }
  struct stat key_file;
  if (tls && stat(tcp.tls_key.c_str(), &key_file) == 0 && (key_file.st_mode & 0007) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tcp.tls_key: ", tcp.tls_key, " may be read by everybody; set its mode to 0600 or 0640"));
  }
  return absl::OkStatus();
}

absl::Status CheckPrincipals(const char* key, const std::vector<std::string>& principals) {
  for (const std::string& principal : principals) {
    const bool known = principal == "token" || absl::StartsWith(principal, "token:") ||
                       absl::StartsWith(principal, "uid:") || absl::StartsWith(principal, "tls:");
    if (known) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        key, ": \"", principal, "\" is no principal; known forms: uid:1000, token, token:NAME, tls:COMMON NAME"));
  }
  return absl::OkStatus();
}

absl::Status CheckPath(const std::string& key, const std::string& path) {
  if (absl::StartsWith(path, "/")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, ": must be an absolute path, it is \"", path, "\""));
}

absl::Status CheckAddress(const char* key, const std::string& address) {
  if (address.empty()) return absl::OkStatus();
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon != std::string::npos && colon > 0 && absl::SimpleAtoi(address.substr(colon + 1), &port) &&
      port >= 0 && port <= 65535) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": must be HOST:PORT, it is \"", address, "\""));
}

absl::Status CheckPaths(const Config& config) {
  std::vector<std::pair<std::string, std::string>> paths = {{"state_dir", config.state_dir},
                                                            {"socket.path", config.socket.path},
                                                            {"worker.binary", config.worker.binary}};
  for (const auto& [name, path] : config.models.models) paths.emplace_back("models." + name, path);
  for (const std::string& root : config.models.roots) paths.emplace_back("model_roots", root);
  for (const auto& [key, path] : paths) {
    if (absl::Status status = CheckPath(key, path); !status.ok()) return status;
  }
  // sockaddr_un holds 108 bytes with the final zero; the worker's socket lies in the state directory.
  constexpr size_t kLongestSocket = 107;
  const std::string worker_socket = config.state_dir + "/worker.sock";
  for (const auto& [key, path] : {std::pair{"socket.path", config.socket.path},
                                  std::pair{"state_dir", worker_socket}}) {
    if (path.size() > kLongestSocket) {
      return absl::InvalidArgumentError(absl::StrCat(key, ": the socket ", path, " has ", path.size(),
                                                     " bytes; a Unix socket path may have ",
                                                     kLongestSocket));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Environment ReadEnvironment() {
  Environment environment;
  environment.notify_socket = Env("NOTIFY_SOCKET");
  environment.journal = !Env("JOURNAL_STREAM").empty();
  int64_t microseconds = 0;
  if (absl::SimpleAtoi(Env("WATCHDOG_USEC"), &microseconds) && microseconds > 0) {
    environment.watchdog = absl::Microseconds(microseconds) / 2;
  }
  return environment;
}

Config DefaultConfig() {
  Config config;
  config.state_dir = DefaultStateDir();
  config.socket.path = spec::DefaultSocketPath();
  config.worker.binary = DefaultWorkerBinary();
  return config;
}

bool IsLoopback(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  in_addr parsed;  // a name such as 127.example.com is not an address
  if (inet_pton(AF_INET, host.c_str(), &parsed) == 1) return ntohl(parsed.s_addr) >> 24 == 127;
  return host == "[::1]" || host == "localhost";
}

absl::Status CheckConfig(const Config& config) {
  if (absl::Status status = CheckPaths(config); !status.ok()) return status;
  const std::string& device = config.worker.device;
  if (device != "auto" && device != "cuda" && device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("worker.device: must be auto, cuda or cpu, it is \"", device, "\""));
  }
  if (config.worker.backend != "local" && config.worker.backend != "slurm") {
    return absl::InvalidArgumentError(
        absl::StrCat("worker.backend: must be local or slurm, it is \"", config.worker.backend, "\""));
  }
  if (config.worker.backend == "slurm" && !std::filesystem::exists(config.slurm.script)) {
    return absl::InvalidArgumentError(
        absl::StrCat("slurm.script: ", config.slurm.script, " does not exist; name a batch script like finetune.sbatch"));
  }
  if (absl::Status status = CheckAddress("tcp.address", config.tcp.address); !status.ok()) return status;
  if (absl::Status status = CheckAddress("metrics.address", config.metrics.address); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckAddress("web.address", config.web.address); !status.ok()) return status;
  if (!config.web.address.empty() && !IsLoopback(config.web.address)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "web.address: ", config.web.address, " is reachable from other machines and the page has no login; use ",
        "127.0.0.1:PORT, and from elsewhere a tunnel: ssh -L PORT:127.0.0.1:PORT HOST"));
  }
  if (config.access.own_only && !config.web.address.empty()) {
    return absl::InvalidArgumentError(
        "web.address: the page has no login and shows every job; leave it empty with access.own_only");
  }
  if (absl::Status status = CheckPrincipals("access.admins", config.access.admins); !status.ok()) return status;
  if (absl::Status status = CheckPrincipals("quotas.exempt", config.quotas.exempt); !status.ok()) return status;
  return CheckTcp(config.tcp);
}

absl::StatusOr<std::string> ResolveModel(const ModelsConfig& models, const std::string& base_model) {
  constexpr absl::string_view kPrefix = "models/";
  if (absl::StartsWith(base_model, kPrefix)) {
    const std::string name = base_model.substr(kPrefix.size());
    const auto found = models.models.find(name);
    if (found != models.models.end()) return found->second;
    std::vector<std::string> names;
    for (const auto& [known, path] : models.models) names.push_back(known);
    const std::string near = spec::Nearest(name, names);
    if (!near.empty()) {
      return absl::NotFoundError(absl::StrCat(base_model, " is not known; did you mean models/", near, "?"));
    }
    return absl::NotFoundError(
        absl::StrCat(base_model, " is not known; add it to models in the daemon's configuration"));
  }
  if (!absl::StartsWith(base_model, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("base_model must be models/NAME or an absolute path, it is \"", base_model, "\""));
  }
  for (const std::string& root : models.roots) {
    if (auto path = ResolveBeneath(root, base_model)) return *std::move(path);
  }
  // The same answer for a path that does not exist and one that leads outside: nothing is told about other files.
  return absl::PermissionDeniedError(
      "base_model is not a path below one of the daemon's model_roots; name a model as models/NAME");
}

}  // namespace finetuned::config
