#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Typed configuration of the daemon. Read once, then never changed. The environment is read here and
// nowhere else. `finetuned --print-config` shows every key with its value.
namespace finetuned::config {

struct SocketConfig {
  std::string path;  // Unix socket; of root /run/finetuned/finetuned.sock, else finetuned/ in XDG_RUNTIME_DIR
  // Users beside the daemon's own and root that may connect. Empty: the socket's mode is 0600; else
  // 0666, and the kernel's peer credentials decide.
  std::vector<int64_t> allowed_uids;
};

struct TcpConfig {                     // off when address is empty
  std::string address;                 // "127.0.0.1:9465"; port 0 allowed
  std::string tls_certificate;         // PEM files
  std::string tls_key;                 // of tls_certificate
  std::string tls_client_ca;           // set: clients need a certificate (mTLS)
  // Bearer tokens. Either one token of at least 32 characters (its principal is "token"), or lines "NAME sha256:HEX" as
  // `finetuned --new-token NAME` makes them (principal "token:NAME"). Mode 0600; read again when it changes, and on SIGHUP.
  std::string token_file;
};

// Who sees and changes what. Principals are "uid:1000", "token", "token:NAME", "tls:COMMON NAME".
struct AccessConfig {
  // Callers see and change only the jobs, datasets and adapters they own; what is another's looks as if it did not exist.
  // Otherwise whoever may connect may see and change everything.
  bool own_only = false;
  std::vector<std::string> admins;     // principals for whom own_only does not count; root and the daemon's user always
};

struct QuotasConfig {                  // of each principal; 0: no limit
  int64_t max_queued_jobs = 0;         // jobs of one principal in state QUEUED
  int64_t max_storage_bytes = 0;       // of its datasets, uploads, checkpoints and adapters
  absl::Duration max_device_time = absl::Seconds(0);      // its jobs holding the device within device_time_window
  absl::Duration device_time_window = absl::Hours(24);    // looked back from now, in whole hours
  std::vector<std::string> exempt;     // principals without quotas
};

struct AuditConfig {                   // logs/audit.log in state_dir: changes, refusals, downloads
  bool enabled = true;
  int64_t max_bytes = 16 << 20;        // then a new file is begun
  int files = 4;                       // older files kept: audit.log.1 and so on
};

struct ModelsConfig {
  std::map<std::string, std::string> models;  // name ("models/{name}" in the API) -> path
  std::vector<std::string> roots;             // folders below which clients may name paths
};

struct WorkerConfig {
  std::string binary;                  // default: finetune-worker beside finetuned
  std::string backend = "local";       // where jobs run: local (a process of the daemon's) or slurm
  std::string device = "auto";         // auto, cuda, cpu
  int cpu_threads = 0;                 // 0: all cores
  bool prestart = true;                // start it with the daemon, to know the device
  absl::Duration start_timeout = absl::Seconds(120);    // until it says hello, else it is killed
  absl::Duration heartbeat_timeout = absl::Seconds(60);  // without a sign of life: killed, the job is queued again
  absl::Duration progress_timeout = absl::Minutes(60);   // without a finished step or phase: likewise
  absl::Duration cancel_grace = absl::Seconds(30);      // for a cancelled job to stop, else the worker is killed
  absl::Duration leave_grace = absl::Seconds(60);       // for the checkpoint of a job that is paused or drained
  absl::Duration idle_timeout = absl::Minutes(10);      // without a job it leaves the device; 0: stays for ever
  int max_crashes = 3;                 // of one job, then it fails
  int64_t vram_budget_bytes = 0;       // 0: all of the device's memory
};

struct SlurmConfig {                   // of worker.backend slurm; see docs/scaling.md
  std::string script = "/usr/share/finetuned/finetune.sbatch";
  std::vector<std::string> arguments;  // of sbatch: "--partition=gpu", "--ntasks=2"
  int64_t vram_bytes = 0;              // of a GPU of the nodes; 0: unknown, no job is refused for its size
  absl::Duration poll_interval = absl::Seconds(5);
};

struct MetricsConfig {
  std::string address = "127.0.0.1:9464";         // empty: off; port 0: any free port
  absl::Duration job_series_linger = absl::Minutes(5);  // after the job left the device
};

struct WebConfig {
  std::string address;                 // "127.0.0.1:9466", loopback only; empty: off; port 0: any free port
};

struct LimitsConfig {
  int64_t max_queued_jobs = 1000;                 // more are refused
  int64_t max_message_bytes = 8 << 20;            // of one gRPC message
  int64_t max_chunk_bytes = 1 << 20;              // of one piece of an upload or download
  int64_t max_dataset_bytes = int64_t{8} << 30;   // of one dataset
  int64_t max_streams_per_connection = 128;       // calls at once over one connection
  // Messages that are being sent or answered, of all connections together: a call's message is asked for when there is
  // room for two of the largest. Uploads and reward workers hold as much each, and half of it all at most (16 at once).
  int64_t max_rpc_memory_bytes = 512 << 20;
  int64_t max_watchers = 1000;                    // open WatchJob streams
  // Less free space in the state directory: new jobs and uploads are refused.
  int64_t min_free_disk_bytes = int64_t{1} << 30;
};

struct Config {
  std::string state_dir;               // default: /var/lib/finetuned, ~/.local/state/finetuned
  SocketConfig socket;
  TcpConfig tcp;
  AccessConfig access;
  QuotasConfig quotas;
  AuditConfig audit;
  ModelsConfig models;                 // keys `models` and `model_roots`
  WorkerConfig worker;
  SlurmConfig slurm;
  MetricsConfig metrics;
  WebConfig web;
  LimitsConfig limits;
};

// What the environment says, gathered by ReadEnvironment.
struct Environment {
  std::string notify_socket;           // NOTIFY_SOCKET of systemd
  absl::Duration watchdog;             // half of WATCHDOG_USEC; 0: none wanted
  bool journal = false;                // JOURNAL_STREAM: the log goes to the journal
};
Environment ReadEnvironment();

// Every default filled in, for this user and this machine.
Config DefaultConfig();

// DefaultConfig() changed by a YAML document. INVALID_ARGUMENT names file, line and key; an unknown key
// names the nearest known one.
absl::StatusOr<Config> ParseConfig(const std::string& text, const std::string& file_name);
absl::StatusOr<Config> LoadConfig(const std::string& file_name);

// What cannot be seen from one key: a TCP listener needs a token or TLS, files exist, state_dir is
// absolute. FAILED_PRECONDITION or INVALID_ARGUMENT.
absl::Status CheckConfig(const Config& config);

// HOST:PORT on this machine alone: an address of 127.0.0.0/8, [::1] or localhost.
bool IsLoopback(const std::string& address);

// YAML with every key.
std::string PrintConfig(const Config& config);
// "worker.max_crashes", in the order of PrintConfig.
std::vector<std::string> ConfigKeys();

// Path of a base model a client named: "models/{name}", or a path below a model root (resolved without
// leaving it by .. or links). NOT_FOUND names the nearest model; PERMISSION_DENIED: outside the roots.
absl::StatusOr<std::string> ResolveModel(const ModelsConfig& models, const std::string& base_model);

}  // namespace finetuned::config
