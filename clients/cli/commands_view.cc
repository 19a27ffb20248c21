#include <algorithm>
#include <ctime>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "clients/cli/chart.h"
#include "clients/cli/commands.h"
#include "clients/cli/job_text.h"
#include "clients/cli/terminal.h"

namespace finetuned::cli {
namespace {

constexpr double kRefreshSeconds = 2;

struct ListFlags {
  std::string filter;
  int limit = 50;
  bool all = false, watch = false;
};

v1::ListJobsResponse FetchJobs(const Client& client, const ListFlags& flags) {
  v1::ListJobsRequest request;
  request.set_filter(flags.filter);
  request.set_page_size(std::min(flags.limit, 1000));
  v1::ListJobsResponse all;
  do {
    v1::ListJobsResponse response;
    auto context = client.Context();
    Check(client.jobs->ListJobs(context.get(), request, &response), client);
    all.mutable_jobs()->MergeFrom(response.jobs());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && (flags.all || all.jobs_size() < flags.limit));
  return all;
}

std::string ListText(const v1::ListJobsResponse& jobs, const ListFlags& flags) {
  if (jobs.jobs().empty()) {
    return flags.filter.empty() ? "No jobs. Submit one: finetune run sft --help\n" : "No jobs match.\n";
  }
  return JobTable({jobs.jobs().begin(), jobs.jobs().end()}, std::time(nullptr), StdoutStyle());
}

ExitCode List(App& app, const ListFlags& flags) {
  Client client(app.connect);
  if (flags.watch) {
    return RunLive(kRefreshSeconds, "finetune ls -o json", [&](TerminalSize size) {
      std::vector<std::string> lines = absl::StrSplit(ListText(FetchJobs(client, flags), flags), '\n', absl::SkipEmpty());
      for (std::string& line : lines) line = Clip(line, size.columns);
      return lines;
    });
  }
  const v1::ListJobsResponse jobs = FetchJobs(client, flags);
  if (app.output != "table") {
    PrintMessage(jobs, app.output);
  } else {
    std::cout << ListText(jobs, flags);
  }
  return kOk;
}

std::vector<std::string> TopFrame(const Client& client, TerminalSize size) {
  v1::ServerInfo info;
  auto context = client.Context(5);
  Check(client.daemon->GetServerInfo(context.get(), {}, &info), client);
  const v1::ListJobsResponse jobs = FetchJobs(client, {});
  return TopView(info, {jobs.jobs().begin(), jobs.jobs().end()}, std::time(nullptr), size.columns, size.rows,
                 StdoutStyle());
}

ExitCode Top(App& app, bool once, double interval) {
  Client client(app.connect);
  if (!once && StdoutIsTerminal()) {
    return RunLive(interval, "finetune top --once", [&](TerminalSize size) { return TopFrame(client, size); });
  }
  for (const std::string& line : TopFrame(client, {GetTerminalSize().columns, 1000})) std::cout << line << "\n";
  return kOk;
}

struct PlotFlags {
  std::vector<std::string> jobs, keys;
  bool log_y = false, watch = false;
  int width = 0, height = 0;  // 0: of the terminal
};

v1::QueryMetricsResponse FetchSeries(const Client& client, const std::string& job, const PlotFlags& flags) {
  v1::QueryMetricsRequest request;
  request.set_parent(ResourceName("jobs", job));
  request.set_max_points(2000);
  for (const std::string& key : flags.keys) request.add_keys(key);
  if (flags.keys.empty()) {
    request.add_keys("loss");
    request.add_keys("eval_loss");
  }
  v1::QueryMetricsResponse response;
  auto context = client.Context();
  Check(client.jobs->QueryMetrics(context.get(), request, &response), client);
  return response;
}

std::vector<std::string> PlotFrame(const Client& client, const PlotFlags& flags, TerminalSize size) {
  std::vector<ChartSeries> series;
  for (const std::string& job : flags.jobs) {
    const v1::QueryMetricsResponse fetched = FetchSeries(client, job, flags);
    for (const v1::MetricSeries& s : fetched.series()) {
      series.push_back({flags.jobs.size() > 1 ? absl::StrCat(ShortName(job), " ", s.key()) : s.key(),
                        {s.steps().begin(), s.steps().end()},
                        {s.values().begin(), s.values().end()}});
    }
  }
  if (series.empty()) {
    return {absl::StrCat("No such values yet. What a job has: finetune plot ", flags.jobs[0], " --list")};
  }
  ChartOptions options;
  options.width = flags.width > 0 ? flags.width : size.columns;
  options.height = flags.height > 0 ? flags.height : std::min(size.rows - 1, 24);
  options.log_y = flags.log_y;
  options.x_label = "step";
  return DrawChart(series, options, StdoutStyle());
}

ExitCode Plot(App& app, const PlotFlags& flags) {
  Client client(app.connect);
  if (app.output != "table") {
    for (const std::string& job : flags.jobs) PrintMessage(FetchSeries(client, job, flags), app.output);
    return kOk;
  }
  if (flags.watch) {
    return RunLive(kRefreshSeconds, absl::StrCat("finetune plot ", flags.jobs[0]),
                   [&](TerminalSize size) { return PlotFrame(client, flags, size); });
  }
  for (const std::string& line : PlotFrame(client, flags, GetTerminalSize())) std::cout << line << "\n";
  return kOk;
}

// The names a plot may ask for.
ExitCode PlotKeys(App& app, const std::string& job) {
  Client client(app.connect);
  v1::QueryMetricsRequest request;
  request.set_parent(ResourceName("jobs", job));
  request.set_max_points(3);
  v1::QueryMetricsResponse response;
  auto context = client.Context();
  Check(client.jobs->QueryMetrics(context.get(), request, &response), client);
  for (const auto& series : response.series()) std::cout << series.key() << "\n";
  return kOk;
}

}  // namespace

void AddViewCommands(CLI::App& cli, App& app) {
  auto list = std::make_shared<ListFlags>();
  CLI::App* ls = cli.add_subcommand("ls", "List jobs, newest first");
  ls->add_option("--filter", list->filter, "e.g. state = RUNNING AND labels.team = nlp");
  ls->add_option("--limit", list->limit, "How many (default 50)")->check(CLI::Range(1, 100000));
  ls->add_flag("--all", list->all, "All of them");
  ls->add_flag("-w,--watch", list->watch, "Refresh until q or Ctrl-C");
  AddOutputOption(ls, app);
  ls->callback([&app, list] { app.action = [&app, list] { return List(app, *list); }; });

  auto once = std::make_shared<bool>(false);
  auto interval = std::make_shared<double>(kRefreshSeconds);
  CLI::App* top = cli.add_subcommand("top", "The GPU, the running job and the queue, refreshed; q quits");
  top->add_flag("--once", *once, "Print it once (default when not a terminal)");
  top->add_option("--interval", *interval, "Seconds between refreshes (default 2)")->check(CLI::Range(0.2, 3600.0));
  top->callback([&app, once, interval] { app.action = [&app, once, interval] { return Top(app, *once, *interval); }; });

  auto plot_flags = std::make_shared<PlotFlags>();
  auto keys = std::make_shared<bool>(false);
  CLI::App* plot = cli.add_subcommand("plot", "Curves of one or several jobs in the terminal");
  plot->add_option("jobs", plot_flags->jobs, "Jobs")->required();
  plot->add_option("-m,--metric", plot_flags->keys, "Value to draw, may come again (default: loss and eval_loss)")
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  plot->add_flag("--list", *keys, "Names of the values the job has");
  plot->add_flag("--log", plot_flags->log_y, "Logarithmic vertical axis");
  plot->add_option("--width", plot_flags->width, "Columns (default: the terminal's)")->check(CLI::Range(30, 1000));
  plot->add_option("--height", plot_flags->height, "Lines (default: the terminal's, at most 24)")
      ->check(CLI::Range(6, 500));
  plot->add_flag("-w,--watch", plot_flags->watch, "Refresh until q or Ctrl-C");
  AddOutputOption(plot, app);
  plot->callback([&app, plot_flags, keys] {
    app.action = [&app, plot_flags, keys] {
      return *keys ? PlotKeys(app, plot_flags->jobs[0]) : Plot(app, *plot_flags);
    };
  });
}

}  // namespace finetuned::cli
