// finetuned: the daemon. Takes fine-tuning jobs over gRPC into a durable queue and has a worker process
// run them one after another.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/api/server.h"
#include "server/auth/token_file.h"
#include "server/config/config.h"
#include "server/config/log.h"
#include "server/config/notify.h"
#include "server/jobs/job_manager.h"
#include "server/metrics/gpu_monitor.h"
#include "server/metrics/metrics.h"
#include "server/store/store.h"
#include "server/supervisor/slurm.h"
#include "server/supervisor/supervisor.h"
#include "server/supervisor/worker_process.h"
#include "server/web/http_server.h"
#include "server/web/web_page.h"

namespace finetuned {
namespace {

constexpr int kBadConfig = 78;  // as in sysexits.h
constexpr absl::Duration kGpuInterval = absl::Seconds(2);

// What wakes the main thread: signals, and the word that the queue is drained.
struct Wakers {
  supervisor::Fd signals, drained;
};

// Before any thread is started: signals are read from a descriptor by the main thread alone.
Wakers MakeWakers() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return {supervisor::Fd(signalfd(-1, &set, SFD_CLOEXEC)), supervisor::Fd(eventfd(0, EFD_CLOEXEC))};
}

// Two daemons on one state directory would run every job twice.
absl::StatusOr<supervisor::Fd> LockStateDir(const store::Layout& layout) {
  std::error_code error;
  std::filesystem::create_directories(layout.state_dir, error);
  supervisor::Fd lock(open(layout.DaemonLock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.get() < 0) {
    return absl::FailedPreconditionError(absl::StrCat("state_dir: cannot write to ", layout.state_dir));
  }
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("state_dir: another finetuned uses ", layout.state_dir));
  }
  return lock;
}

// Tells systemd's watchdog, from the scheduler's thread, that the queue still turns.
std::function<void()> WatchdogTicker(const config::Environment& environment) {
  if (environment.watchdog == absl::ZeroDuration()) return nullptr;
  return [environment, next = absl::InfinitePast()]() mutable {
    if (absl::Now() < next) return;
    next = absl::Now() + environment.watchdog;
    config::Notify(environment.notify_socket, "WATCHDOG=1");
  };
}

// Until drained: the first signal asks for it, the second does not wait. SIGHUP has the tokens read again.
void WaitUntilDrained(const Wakers& wakers, const config::Environment& environment,
                      const config::Config& config, api::Server* server, jobs::JobManager* jobs) {
  bool asked = false;
  for (;;) {
    pollfd fds[2] = {{wakers.signals.get(), POLLIN, 0}, {wakers.drained.get(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    if ((fds[1].revents & POLLIN) != 0) return;
    signalfd_siginfo info;
    if (read(wakers.signals.get(), &info, sizeof info) != sizeof info) continue;
    if (info.ssi_signo == SIGHUP) {
      const absl::Status status = server->Reload();
      LogInfo(status.ok() ? "SIGHUP: the tokens were read again"
                          : absl::StrCat("SIGHUP: ", status.message(), "; the tokens stay what they were"));
      continue;
    }
    if (asked) {
      LogWarning("second signal: leaving at once");
      _exit(1);
    }
    asked = true;
    LogInfo("draining: no new jobs, the running one writes a checkpoint");
    config::Notify(environment.notify_socket, "STOPPING=1");
    server->BeginDrain();
    jobs->Drain(config.worker.leave_grace, false);
  }
}

// Where jobs run.
absl::StatusOr<std::unique_ptr<supervisor::Backend>> MakeBackend(const config::Config& config, const store::Layout& layout,
                                                                 supervisor::WorkerEvents* events) {
  if (config.worker.backend == "slurm") {
    const config::SlurmConfig& slurm = config.slurm;
    return std::make_unique<supervisor::Slurm>(
        supervisor::SlurmOptions{slurm.script, slurm.arguments, config.worker.binary, slurm.vram_bytes, slurm.poll_interval},
        events);
  }
  auto local = supervisor::Supervisor::Create({layout, config.worker.binary, config.worker.device}, events);
  if (!local.ok()) return local.status();
  return *std::move(local);
}

absl::Status Serve(const config::Config& config, const config::Environment& environment) {
  const Wakers wakers = MakeWakers();
  umask(0077);  // what the daemon keeps is nobody else's
  const absl::Time start_time = absl::Now();
  const store::Layout layout = {config.state_dir};
  const auto lock = LockStateDir(layout);
  if (!lock.ok()) return lock.status();

  metrics::Metrics metrics({FINETUNED_VERSION, config.state_dir, config.metrics.job_series_linger});
  auto store = store::Store::Open({layout, [&](double seconds) { metrics.JournalSync(seconds); }});
  if (!store.ok()) return store.status();

  jobs::JobManager::Options options;
  options.config = &config;
  options.version = FINETUNED_VERSION;
  options.on_loop = WatchdogTicker(environment);
  options.on_drained = [fd = wakers.drained.get()] { eventfd_write(fd, 1); };
  jobs::JobManager jobs(options, store->get(), &metrics);
  const auto backend = MakeBackend(config, layout, jobs.worker_events());
  if (!backend.ok()) return backend.status();
  if (absl::Status status = jobs.Start(backend->get()); !status.ok()) return status;
  // In this order the worker is stopped after the queue no longer acts on its end.
  struct Stopper {
    jobs::JobManager* jobs;
    ~Stopper() { jobs->Stop(); }
  } stopper{&jobs};

  if (!config.metrics.address.empty()) {
    if (absl::Status status = metrics.Serve(config.metrics.address); !status.ok()) return status;
    LogInfo(absl::StrCat("metrics on port ", metrics.port()));
  }
  const metrics::GpuMonitor gpu_monitor(
      kGpuInterval, [&](const auto& readings) { metrics.Gpus(readings, absl::Now()); });
  auto server = api::Server::Start({&config, store->get(), &jobs, &metrics, FINETUNED_VERSION,
                                    supervisor::RandomToken().substr(0, 16), start_time});
  if (!server.ok()) return server.status();
  std::unique_ptr<web::WebPage> page;
  std::unique_ptr<web::HttpServer> http;
  if (!config.web.address.empty()) {
    page = std::make_unique<web::WebPage>((*server)->LocalChannel());
    auto started = web::HttpServer::Start(config.web.address, [&](const auto& request) { return page->Answer(request); });
    if (!started.ok()) return started.status();
    http = *std::move(started);
    LogInfo(absl::StrCat("web page on port ", http->port()));
  }
  LogInfo(absl::StrCat("finetuned ", FINETUNED_VERSION, " listens on ", config.socket.path));
  config::Notify(environment.notify_socket, "READY=1");
  WaitUntilDrained(wakers, environment, config, server->get(), &jobs);
  http.reset();
  jobs.Stop();
  (*server)->Shutdown(absl::Seconds(2));
  LogInfo("bye");
  return absl::OkStatus();
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "finetuned: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? kBadConfig : 1;
}

// The line for the token file goes to standard output, the token, which is nowhere kept, to standard error.
int PrintNewToken(const std::string& name) {
  const auto made = auth::MakeToken(name);
  if (!made.ok()) return Fail(made.status());
  std::fprintf(stderr, "token (shown once): %s\n", made->token.c_str());
  std::printf("%s\n", made->line.c_str());
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App cli{"The fine-tuning daemon.", "finetuned"};
  std::string config_file, state_dir, new_token;
  bool check = false, print = false;
  cli.set_version_flag("--version", "finetuned " FINETUNED_VERSION);
  cli.add_option("--config", config_file, "Configuration (YAML); every key has a default");
  cli.add_option("--state-dir", state_dir, "Overrides state_dir of the configuration");
  cli.add_flag("--check-config", check, "Check the configuration and exit");
  cli.add_flag("--print-config", print, "Print the configuration with every default and exit");
  cli.add_option("--new-token", new_token, "Make a token of this name, print the line for tcp.token_file and exit");
  CLI11_PARSE(cli, argc, argv);
  if (!new_token.empty()) return PrintNewToken(new_token);
  const config::Environment environment = config::ReadEnvironment();
  SetLogToJournal(environment.journal);
  absl::StatusOr<config::Config> config =
      config_file.empty() ? config::DefaultConfig() : config::LoadConfig(config_file);
  if (!config.ok()) return Fail(config.status());
  if (!state_dir.empty()) config->state_dir = std::filesystem::absolute(state_dir).string();
  if (print) {
    std::fputs(config::PrintConfig(*config).c_str(), stdout);
    return 0;
  }
  if (absl::Status status = config::CheckConfig(*config); !status.ok()) return Fail(status);
  if (check) return 0;
  const absl::Status status = Serve(*config, environment);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace finetuned

int main(int argc, char** argv) { return finetuned::Main(argc, argv); }
