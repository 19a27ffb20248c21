// update, hold, release: what of a job may change later.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "clients/cli/commands.h"
#include "clients/cli/job_text.h"
#include "clients/cli/scheduling_flags.h"

namespace finetuned::cli {
namespace {

struct UpdateFlags {
  std::string job;
  std::optional<std::string> display_name;
  std::vector<std::string> labels;
  SchedulingFlags scheduling;
};

v1::Job Send(const Client& client, const v1::UpdateJobRequest& request) {
  v1::Job job;
  auto context = client.Context();
  Check(client.jobs->UpdateJob(context.get(), request, &job), client);
  return job;
}

void Show(const v1::Job& job, const std::string& output) {
  if (output != "table") return PrintMessage(job, output);
  std::cout << job.name() << " " << StateName(job.state());
  if (!job.state_message().empty()) std::cout << ": " << Printable(job.state_message());
  std::cout << "\n";
}

// Labels are replaced as a whole by UpdateJob: those not named stay.
void SetLabels(const Client& client, const std::vector<std::string>& labels, v1::UpdateJobRequest* request) {
  v1::GetJobRequest get;
  get.set_name(request->job().name());
  v1::Job job;
  auto context = client.Context();
  Check(client.jobs->GetJob(context.get(), get, &job), client);
  *request->mutable_job()->mutable_labels() = job.labels();
  request->mutable_job()->set_etag(job.etag());  // nobody's label in between is lost
  for (const std::string& label : labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw CommandError{kUsage, absl::StrCat("--label: ", label, " is not KEY=VALUE (KEY= removes it)")};
    }
    const std::string key = label.substr(0, equals), value = label.substr(equals + 1);
    auto& all = *request->mutable_job()->mutable_labels();
    if (value.empty()) {
      all.erase(key);
    } else {
      all[key] = value;
    }
  }
  request->mutable_update_mask()->add_paths("labels");
}

ExitCode Update(App& app, const UpdateFlags& flags) {
  v1::UpdateJobRequest request;
  request.mutable_job()->set_name(ResourceName("jobs", flags.job));
  request.set_request_id(NewRequestId());
  for (const std::string& field : ApplyScheduling(flags.scheduling, request.mutable_job()->mutable_scheduling())) {
    request.mutable_update_mask()->add_paths(field);
  }
  if (flags.display_name) {
    request.mutable_job()->set_display_name(*flags.display_name);
    request.mutable_update_mask()->add_paths("display_name");
  }
  Client client(app.connect);
  if (!flags.labels.empty()) SetLabels(client, flags.labels, &request);
  if (request.update_mask().paths_size() == 0) throw CommandError{kUsage, "nothing to change was given"};
  Show(Send(client, request), app.output);
  return kOk;
}

ExitCode SetHold(App& app, const std::string& job, bool hold) {
  v1::UpdateJobRequest request;
  request.mutable_job()->set_name(ResourceName("jobs", job));
  request.mutable_job()->mutable_scheduling()->set_hold(hold);
  request.mutable_update_mask()->add_paths("scheduling.hold");
  request.set_request_id(NewRequestId());
  Client client(app.connect);
  Show(Send(client, request), app.output);
  return kOk;
}

}  // namespace

void AddUpdateCommands(CLI::App& cli, App& app) {
  auto flags = std::make_shared<UpdateFlags>();
  CLI::App* update = cli.add_subcommand("update", "Change when a job runs, its display name or its labels");
  update->add_option("job", flags->job, "Job")->required();
  AddSchedulingFlags(update, &flags->scheduling);
  update->add_flag("--not-preemptible", flags->scheduling.not_preemptible, "Keeps the GPU until it is through")
      ->excludes("--preemptible");
  update->add_option("--display-name", flags->display_name, "Name shown to people");
  update->add_option("--label", flags->labels, "KEY=VALUE; KEY= removes it")->allow_extra_args(false);
  AddOutputOption(update, app);
  update->callback([&app, flags] { app.action = [&app, flags] { return Update(app, *flags); }; });

  auto id = std::make_shared<std::string>();
  for (const bool hold : {true, false}) {
    CLI::App* command = cli.add_subcommand(hold ? "hold" : "release", hold ? "Keep a queued job from starting"
                                                                           : "Let a job on hold start");
    command->add_option("job", *id, "Job")->required();
    AddOutputOption(command, app);
    command->callback([&app, id, hold] { app.action = [&app, id, hold] { return SetHold(app, *id, hold); }; });
  }
}

}  // namespace finetuned::cli
