#include <iostream>

#include "absl/strings/str_cat.h"
#include "clients/cli/commands.h"
#include "clients/cli/job_text.h"
#include "clients/cli/terminal.h"
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

ExitCode Why(App& app, const std::string& id) {
  Client client(app.connect);
  const v1::Job job = GetJob(client, id);
  if (app.output != "table") {
    v1::Job why;
    why.set_name(job.name());
    why.set_state(job.state());
    why.set_state_reason(job.state_reason());
    why.set_state_message(job.state_message());
    why.mutable_progress()->set_queue_position(job.progress().queue_position());
    if (job.has_error()) *why.mutable_error() = job.error();
    PrintMessage(why, app.output);
    return kOk;
  }
  std::cout << ShortName(job.name()) << " is " << StateName(job.state());
  if (job.state_reason() != v1::STATE_REASON_UNSPECIFIED) std::cout << " (" << ReasonName(job.state_reason()) << ")";
  if (!job.state_message().empty()) std::cout << ": " << Printable(job.state_message());
  std::cout << "\n";
  if (job.state() == v1::QUEUED && job.progress().queue_position() > 0) {
    std::cout << "Position " << job.progress().queue_position() << " in the queue.\n";
  }
  return kOk;
}

struct LogsFlags {
  bool follow = false;
  std::string output = StdoutIsTerminal() ? "text" : "json";
  std::string type;
};

ExitCode Logs(App& app, const std::string& id, const LogsFlags& flags) {
  Client client(app.connect);
  const std::string name = ResourceName("jobs", id);
  const bool json = flags.output == "json";
  if (flags.follow) return WatchJob(client, name, json ? WatchOutput::kJson : WatchOutput::kText, false, flags.type);
  const Style style = StdoutStyle();
  v1::ListEventsRequest request;
  request.set_parent(name);
  request.set_page_size(1000);
  if (!flags.type.empty()) request.set_filter(absl::StrCat("type = ", flags.type));
  do {
    v1::ListEventsResponse response;
    auto context = client.Context();
    Check(client.jobs->ListEvents(context.get(), request, &response), client);
    for (const auto& event : response.events()) {
      std::cout << (json ? JsonLine(event) : EventLine(event, style)) << "\n";
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
  AddOutputOption(command, app);
  command->callback([&app, id, call] {
    app.action = [&app, id, call] {
      Client client(app.connect);
      Request request;
      request.set_name(ResourceName("jobs", *id));
      request.set_request_id(NewRequestId());
      v1::Job job;
      auto context = client.Context();
      Check((client.jobs.get()->*call)(context.get(), request, &job), client);
      if (app.output != "table") {
        PrintMessage(job, app.output);
      } else {
        std::cout << job.name() << " " << StateName(job.state()) << "\n";
      }
      return kOk;
    };
  });
}

}  // namespace

void PrintMessage(const google::protobuf::Message& message, const std::string& format) {
  if (format == "yaml") {
    std::cout << spec::MessageToYaml(message);
  } else {
    std::cout << spec::MessageToJson(message);
  }
}

void AddOutputOption(CLI::App* command, App& app) {
  command->add_option("-o,--output", app.output, "table (default), json or yaml")
      ->check(CLI::IsMember({"table", "json", "yaml"}));
}

void AddJobCommands(CLI::App& cli, App& app) {
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
      const bool live = !*json && StdoutIsTerminal();
      return WatchJob(client, ResourceName("jobs", *id), live ? WatchOutput::kLive : WatchOutput::kJson,
                      *from_now);
    };
  });

  CLI::App* why = cli.add_subcommand("why", "Why a job is in its state");
  why->add_option("job", *id, "Job")->required();
  AddOutputOption(why, app);
  why->callback([&app, id] { app.action = [&app, id] { return Why(app, *id); }; });

  auto flags = std::make_shared<LogsFlags>();
  CLI::App* logs = cli.add_subcommand("logs", "All events of a job, one a line");
  logs->add_option("job", *id, "Job")->required();
  logs->add_flag("-f,--follow", flags->follow, "Go on until the job ends");
  logs->add_option("-o,--output", flags->output, "text (default in a terminal) or json")
      ->check(CLI::IsMember({"text", "json"}));
  logs->add_option("--type", flags->type, "Only this kind of event")
      ->check(CLI::IsMember({"state_changed", "metrics", "checkpoint", "log", "eval", "sample", "warning"}));
  logs->callback([&app, id, flags] { app.action = [&app, id, flags] { return Logs(app, *id, *flags); }; });

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
