#include <sys/stat.h>
#include <unistd.h>

#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/commands.h"
#include "clients/cli/term.h"
#include "clients/cli/terminal.h"

namespace finetuned::cli {
namespace {

v1::ServerInfo Info(const Client& client) {
  v1::ServerInfo info;
  auto context = client.Context(5);
  Check(client.daemon->GetServerInfo(context.get(), {}, &info), client);
  return info;
}

ExitCode ShowInfo(App& app) {
  Client client(app.connect);
  const v1::ServerInfo info = Info(client);
  if (app.output != "table") {
    PrintMessage(info, app.output);
    return kOk;
  }
  std::cout << "finetuned " << info.version() << " at " << client.target() << "\n";
  std::cout << "accepting jobs: " << (info.accepting_jobs() ? "yes" : "no") << "   worker: "
            << info.worker_state() << "\n";
  for (const auto& d : info.devices()) {
    std::cout << "device " << d.index() << ": " << d.product();
    if (d.memory_total_bytes() > 0) {
      std::cout << "  " << FormatBytes(static_cast<double>(d.memory_free_bytes())) << " free of "
                << FormatBytes(static_cast<double>(d.memory_total_bytes()));
    }
    std::cout << "\n";
  }
  for (const auto& m : info.models()) {
    std::cout << "model " << ShortName(m.name()) << ": "
              << (m.available() ? absl::StrCat(m.architecture(), ", ",
                                               FormatCount(static_cast<double>(m.parameters())), " parameters")
                                : "not available: " + m.problem())
              << "\n";
  }
  return kOk;
}

// One line per check; the first failure explains what to do.
ExitCode Doctor(App& app) {
  const Style style = StdoutStyle();
  int failures = 0;
  auto report = [&](bool ok, const std::string& what, const std::string& advice) {
    std::cout << (ok ? style.Green("ok  ") : style.Red("FAIL")) << "  " << what << "\n";
    if (!ok && !advice.empty()) std::cout << "      " << advice << "\n";
    failures += !ok;
  };
  Client client(app.connect);
  if (absl::StartsWith(client.target(), "unix:")) {
    std::string path = client.target().substr(5);
    while (absl::StartsWith(path, "//")) path.erase(0, 1);
    struct stat st {};
    const bool exists = stat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode);
    report(exists, absl::StrCat("socket ", path), "start the daemon: finetuned   (or name its socket: --server)");
    if (exists) report(access(path.c_str(), W_OK) == 0, "permission to use it",
                       absl::StrCat("it belongs to uid ", st.st_uid, "; you are uid ", geteuid()));
  }
  v1::ServerInfo info;
  try {
    info = Info(client);
    report(true, absl::StrCat("daemon answers: finetuned ", info.version()), "");
  } catch (const CommandError& e) {
    report(false, "daemon answers", e.message);
    return kUnreachable;
  }
  report(info.accepting_jobs(), "accepts jobs", "it is draining; wait for its restart");
  report(info.worker_state() != "failed", absl::StrCat("worker: ", info.worker_state()),
         "see the daemon's log for why finetune-worker does not start");
  bool gpu = false;
  for (const auto& d : info.devices()) {
    gpu |= d.memory_total_bytes() > 0;
    report(true, absl::StrCat("device ", d.index(), ": ", d.product()), "");
  }
  if (!gpu) std::cout << style.Yellow("note") << "  no GPU seen yet: jobs run on the CPU\n";
  report(info.models_size() > 0, absl::StrCat(info.models_size(), " models configured"),
         "add one under models: in the daemon's configuration");
  for (const auto& m : info.models()) report(m.available(), absl::StrCat("model ", ShortName(m.name())), m.problem());
  return failures == 0 ? kOk : kFailed;
}

}  // namespace

void AddDaemonCommands(CLI::App& cli, App& app) {
  CLI::App* info = cli.add_subcommand("info", "The daemon, its device and its models");
  AddOutputOption(info, app);
  info->callback([&app] { app.action = [&app] { return ShowInfo(app); }; });

  CLI::App* doctor = cli.add_subcommand("doctor", "Check that everything is in place");
  doctor->callback([&app] { app.action = [&app] { return Doctor(app); }; });

  auto grace = std::make_shared<int64_t>(60);
  CLI::App* drain = cli.add_subcommand("drain", "Checkpoint the running job and stop the daemon");
  drain->add_option("--grace", *grace, "Seconds for the checkpoint (default 60)");
  drain->callback([&app, grace] {
    app.action = [&app, grace] {
      Client client(app.connect);
      v1::DrainServerRequest request;
      request.mutable_grace()->set_seconds(*grace);
      v1::ServerInfo out;
      auto context = client.Context();
      Check(client.daemon->DrainServer(context.get(), request, &out), client);
      std::cout << "draining\n";
      return kOk;
    };
  });
}

}  // namespace finetuned::cli
