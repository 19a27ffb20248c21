#include <unistd.h>

#include <ctime>
#include <iostream>

#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/commands.h"
#include "clients/cli/term.h"
#include "clients/cli/watch.h"
#include "proto/spec/job_file.h"

namespace finetuned::cli {
namespace {

v1::Job GetJob(const Client& client, const std::string& id) {
  v1::GetJobRequest request;
  request.set_name(ResourceName("jobs", id));
  v1::Job job;
  auto context = client.Context();
  Check(client.jobs->GetJob(context.get(), request, &job), client);
  return job;
}

std::string MethodName(const v1::JobSpec& spec) {
  switch (spec.method_case()) {
    case v1::JobSpec::kSft: return "sft";
    case v1::JobSpec::kDpo: return "dpo";
    case v1::JobSpec::kKto: return "kto";
    case v1::JobSpec::kGrpo: return "grpo";
    default: return "-";
  }
}

std::string ProgressText(const v1::Job& job) {
  if (job.state() == v1::QUEUED) return absl::StrCat("#", job.progress().queue_position(), " in queue");
  const v1::Progress& p = job.progress();
  if (p.total_steps() == 0) return p.phase().empty() ? "-" : p.phase();
  return absl::StrFormat("%d/%d %3.0f%%", p.step(), p.total_steps(),
                         100.0 * static_cast<double>(p.step()) / static_cast<double>(p.total_steps()));
}

std::string LossText(const v1::Job& job) {
  const auto it = job.progress().latest_metrics().find("loss");
  return it == job.progress().latest_metrics().end() ? "-" : absl::StrFormat("%.4f", it->second);
}

ExitCode List(App& app, const std::string& filter, int limit, bool all) {
  Client client(app.connect);
  v1::ListJobsRequest request;
  request.set_filter(filter);
  request.set_page_size(std::min(limit, 1000));
  std::vector<v1::Job> jobs;
  do {
    v1::ListJobsResponse response;
    auto context = client.Context();
    Check(client.jobs->ListJobs(context.get(), request, &response), client);
    for (auto& job : *response.mutable_jobs()) jobs.push_back(std::move(job));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && (all || static_cast<int>(jobs.size()) < limit));
  if (app.output != "table") {
    v1::ListJobsResponse out;
    for (auto& job : jobs) *out.add_jobs() = std::move(job);
    PrintMessage(out, app.output);
    return kOk;
  }
  if (jobs.empty()) {
    std::cout << "No jobs" << (filter.empty() ? ". Submit one: finetune run sft --help\n" : " match.\n");
    return kOk;
  }
  const int64_t now = std::time(nullptr);
  std::vector<std::vector<std::string>> rows = {
      {"JOB", "METHOD", "MODEL", "STATE", "PROGRESS", "LOSS", "CREATED"}};
  for (const v1::Job& job : jobs) {
    rows.push_back({ShortName(job.name()), MethodName(job.spec()), ShortName(job.spec().base_model()),
                    StateName(job.state()), ProgressText(job), LossText(job),
                    FormatAgo(job.create_time().seconds(), now)});
  }
  std::cout << Table(rows);
  return kOk;
}

ExitCode Why(App& app, const std::string& id) {
  Client client(app.connect);
  const v1::Job job = GetJob(client, id);
  std::cout << ShortName(job.name()) << " is " << StateName(job.state());
  if (job.state_reason() != v1::STATE_REASON_UNSPECIFIED) std::cout << " (" << ReasonName(job.state_reason()) << ")";
  if (!job.state_message().empty()) std::cout << ": " << Printable(job.state_message());
  std::cout << "\n";
  if (job.state() == v1::QUEUED && job.progress().queue_position() > 0) {
    std::cout << "Position " << job.progress().queue_position() << " in the queue.\n";
  }
  return kOk;
}

ExitCode Logs(App& app, const std::string& id, bool follow) {
  Client client(app.connect);
  const std::string name = ResourceName("jobs", id);
  if (follow) return WatchJob(client, name, WatchOutput::kJson, false);
  v1::ListEventsRequest request;
  request.set_parent(name);
  request.set_page_size(1000);
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  do {
    v1::ListEventsResponse response;
    auto context = client.Context();
    Check(client.jobs->ListEvents(context.get(), request, &response), client);
    for (const auto& event : response.events()) {
      std::string json;
      if (google::protobuf::util::MessageToJsonString(event, &json, options).ok()) std::cout << json << "\n";
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return kOk;
}

// A sub-command "NAME JOB" that calls one unary mutation and prints the job's new state.
template <class Request>
void AddMutation(CLI::App& cli, App& app, const char* name, const char* help,
                 grpc::Status (v1::Jobs::Stub::*call)(grpc::ClientContext*, const Request&, v1::Job*)) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = cli.add_subcommand(name, help);
  command->add_option("job", *id, "Job")->required();
  command->callback([&app, id, call] {
    app.action = [&app, id, call] {
      Client client(app.connect);
      Request request;
      request.set_name(ResourceName("jobs", *id));
      request.set_request_id(NewRequestId());
      v1::Job job;
      auto context = client.Context();
      Check((client.jobs.get()->*call)(context.get(), request, &job), client);
      std::cout << job.name() << " " << StateName(job.state()) << "\n";
      return kOk;
    };
  });
}

}  // namespace

void PrintMessage(const google::protobuf::Message& message, const std::string& format) {
  if (format == "yaml") {
    std::cout << spec::MessageToYaml(message);
  } else {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    options.add_whitespace = true;
    std::string json;
    if (google::protobuf::util::MessageToJsonString(message, &json, options).ok()) std::cout << json;
  }
}

void AddJobCommands(CLI::App& cli, App& app) {
  auto filter = std::make_shared<std::string>();
  auto limit = std::make_shared<int>(50);
  auto all = std::make_shared<bool>(false);
  CLI::App* ls = cli.add_subcommand("ls", "List jobs, newest first");
  ls->add_option("--filter", *filter, "e.g. state = RUNNING AND labels.team = nlp");
  ls->add_option("--limit", *limit, "How many (default 50)")->check(CLI::Range(1, 100000));
  ls->add_flag("--all", *all, "All of them");
  ls->add_option("-o,--output", app.output, "table, json or yaml")
      ->check(CLI::IsMember({"table", "json", "yaml"}));
  ls->callback([&app, filter, limit, all] {
    app.action = [&app, filter, limit, all] { return List(app, *filter, *limit, *all); };
  });

  auto id = std::make_shared<std::string>();
  auto format = std::make_shared<std::string>("yaml");
  CLI::App* get = cli.add_subcommand("get", "Everything about a job");
  get->add_option("job", *id, "Job")->required();
  get->add_option("-o,--output", *format, "yaml or json")->check(CLI::IsMember({"json", "yaml"}));
  get->callback([&app, id, format] {
    app.action = [&app, id, format] {
      Client client(app.connect);
      PrintMessage(GetJob(client, *id), *format);
      return kOk;
    };
  });

  auto json = std::make_shared<bool>(false);
  auto from_now = std::make_shared<bool>(false);
  CLI::App* watch = cli.add_subcommand("watch", "Follow a job; Ctrl-C detaches");
  watch->add_option("job", *id, "Job")->required();
  watch->add_flag("--json", *json, "One JSON object per event (default when not a terminal)");
  watch->add_flag("--from-now", *from_now, "Skip what has already happened");
  watch->callback([&app, id, json, from_now] {
    app.action = [&app, id, json, from_now] {
      Client client(app.connect);
      const bool live = !*json && isatty(STDOUT_FILENO);
      return WatchJob(client, ResourceName("jobs", *id), live ? WatchOutput::kLive : WatchOutput::kJson,
                      *from_now);
    };
  });

  CLI::App* why = cli.add_subcommand("why", "Why a job is in its state");
  why->add_option("job", *id, "Job")->required();
  why->callback([&app, id] { app.action = [&app, id] { return Why(app, *id); }; });

  auto follow = std::make_shared<bool>(false);
  CLI::App* logs = cli.add_subcommand("logs", "All events of a job, one JSON object a line");
  logs->add_option("job", *id, "Job")->required();
  logs->add_flag("-f,--follow", *follow, "Go on until the job ends");
  logs->callback([&app, id, follow] { app.action = [&app, id, follow] { return Logs(app, *id, *follow); }; });

  AddMutation<v1::CancelJobRequest>(cli, app, "cancel", "Stop a job for good", &v1::Jobs::Stub::CancelJob);
  AddMutation<v1::PauseJobRequest>(cli, app, "pause", "Checkpoint a job and free the GPU",
                                   &v1::Jobs::Stub::PauseJob);
  AddMutation<v1::ResumeJobRequest>(cli, app, "resume", "Queue a paused job again",
                                    &v1::Jobs::Stub::ResumeJob);
  AddMutation<v1::StopJobRequest>(cli, app, "stop", "Finish early: evaluate, export, SUCCEEDED",
                                  &v1::Jobs::Stub::StopJob);
  AddMutation<v1::CheckpointJobRequest>(cli, app, "checkpoint", "Write a checkpoint now",
                                        &v1::Jobs::Stub::CheckpointJob);
  AddMutation<v1::RetryJobRequest>(cli, app, "retry", "Queue a failed job again from its last checkpoint",
                                   &v1::Jobs::Stub::RetryJob);

  auto force = std::make_shared<bool>(false);
  CLI::App* rm = cli.add_subcommand("rm", "Delete a finished job and its files");
  rm->add_option("job", *id, "Job")->required();
  rm->add_flag("--force", *force, "Also delete its adapter");
  rm->callback([&app, id, force] {
    app.action = [&app, id, force] {
      Client client(app.connect);
      v1::DeleteJobRequest request;
      request.set_name(ResourceName("jobs", *id));
      request.set_force(*force);
      request.set_request_id(NewRequestId());
      google::protobuf::Empty empty;
      auto context = client.Context();
      Check(client.jobs->DeleteJob(context.get(), request, &empty), client);
      std::cout << "deleted " << request.name() << "\n";
      return kOk;
    };
  });
}

}  // namespace finetuned::cli
