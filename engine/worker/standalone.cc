#include "engine/worker/standalone.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/format/model_source.h"
#include "engine/format/peft_config.h"
#include "engine/train/run.h"
#include "engine/worker/device_info.h"
#include "engine/worker/event_file.h"
#include "engine/worker/run_tool.h"
#include "engine/worker/spec_from_proto.h"
#include "proto/spec/job_file.h"
#include "proto/spec/resolve.h"
#include "proto/spec/start_adapter.h"
#include "proto/spec/tools.h"

namespace finetuned::worker {
namespace {

job::RunControl g_control;

void OnSignal(int signal) {
  if (signal == SIGUSR1) {
    g_control.checkpoint = true;
  } else if (signal == SIGUSR2) {
    g_control.finish = true;
  } else {
    g_control.leave = true;
  }
}

// The first process of a world tells what all do; of the others only what goes wrong is shown.
class Quiet : public job::RunObserver {
 public:
  explicit Quiet(int rank) : rank_(rank) {}
  void OnPhase(const std::string&) override {}
  void OnPlan(int64_t, int64_t, const std::map<std::string, double>&) override {}
  void OnStep(int64_t, double, const std::map<std::string, double>&) override {}
  void OnEval(int64_t, const std::map<std::string, double>&) override {}
  void OnCheckpoint(int64_t, const std::string&, int64_t) override {}
  void OnWarning(const std::string&, const std::string&) override {}
  void OnLog(const std::string&) override {}
  void Finished(const job::RunResult& result) const {
    if (result.reason.empty()) return;
    std::fprintf(stderr, "process %d: %s: %s\n", rank_, result.reason.c_str(), result.message.c_str());
  }

 private:
  const int rank_;
};

int Refuse(const std::string& message) {
  std::fprintf(stderr, "finetune-worker: %s\n", message.c_str());
  return static_cast<int>(job::Outcome::kBadConfig);
}

// Paths in a job file are relative to it.
std::string Resolve(const std::string& base, const std::string& path) {
  if (path.empty() || std::filesystem::path(path).is_absolute()) return path;
  return (std::filesystem::path(base) / path).lexically_normal().string();
}

// When the run began first, kept with its state: a template that prints the date gives the same tokens when it is resumed.
// The first process of several says it to the others.
int64_t CreatedSeconds(const std::string& state_dir, int rank) {
  if (rank > 0) return 0;
  const std::string path = state_dir + "/created_unix_seconds";
  int64_t seconds = 0;
  if (std::ifstream(path) >> seconds) return seconds;
  seconds = static_cast<int64_t>(std::time(nullptr));
  std::ofstream(path) << seconds << "\n";
  return seconds;
}

// Takes rank and targets from the adapter in `directory`; the message says what does not fit.
absl::Status TakeAdapter(const std::string& directory, v1::LoraSpec* lora) {
  if (directory.empty()) return absl::OkStatus();
  const auto config = format::ReadPeftConfig(directory);
  if (!config.ok()) return config.status();
  const spec::StartAdapter start = spec::StartAdapterOf(*config);
  for (const auto& violation : spec::CheckStartAdapter(start, *lora)) {
    return absl::InvalidArgumentError(violation.path + ": " + violation.message);
  }
  spec::TakeStartAdapter(start, lora);
  return absl::OkStatus();
}

}  // namespace

int RunStandalone(const StandaloneOptions& options) {
  std::ifstream in(options.spec_file, std::ios::binary);
  if (!in) return Refuse("cannot read " + options.spec_file);
  std::stringstream text;
  text << in.rdbuf();
  absl::StatusOr<v1::Job> parsed = spec::ParseJobFile(text.str(), options.spec_file);
  if (!parsed.ok()) return Refuse(std::string(parsed.status().message()));
  v1::JobSpec& wanted = *parsed->mutable_spec();

  const std::string base_dir = std::filesystem::path(options.spec_file).parent_path().string();
  const RunPaths paths{Resolve(base_dir, wanted.base_model()), Resolve(base_dir, wanted.dataset()),
                       Resolve(base_dir, wanted.eval_dataset()), options.state_dir,
                       Resolve(base_dir, wanted.init_adapter())};
  std::string problems;
  for (const auto& violation : spec::ValidateSpec(wanted)) {
    problems += "\n  " + violation.path + ": " + violation.message;
  }
  if (!problems.empty()) return Refuse(options.spec_file + " is not valid:" + problems);
  if (absl::Status s = TakeAdapter(paths.init_adapter, wanted.mutable_lora()); !s.ok()) {
    return Refuse(std::string(s.message()));
  }
  auto model = format::OpenModel(paths.base_model);
  if (!model.ok()) return Refuse(std::string(model.status().message()));
  spec::ResolveContext context;
  context.model_max_length = (*model)->config().max_position_embeddings;
  context.has_gpu = QueryDevice(wanted.compute().device()).total_bytes > 0;
  absl::StatusOr<v1::JobSpec> resolved = spec::ResolveSpec(wanted, context);
  if (!resolved.ok()) return Refuse(std::string(resolved.status().message()));

  if (options.world.rank > 0 && spec::IsTool(*resolved)) return 0;  // the first process does it alone

  std::filesystem::create_directories(options.state_dir);
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (int signal : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  const job::TrainSpec train_spec =
      ToTrainSpec(*resolved, parsed->name().empty() ? "job" : parsed->name(), paths, options.cpu_threads,
                  CreatedSeconds(options.state_dir, options.world.rank));
  const auto run = [&](auto&& observer) {
    const auto tool = RunTool(*resolved, train_spec, observer, g_control);
    const job::RunResult result =
        tool ? *tool : train::RunTraining(train_spec, observer, g_control, nullptr, nullptr, nullptr, options.world);
    observer.Finished(result);
    return result;
  };
  const job::RunResult result =
      options.world.rank == 0 ? run(EventFile(options.state_dir + "/events.jsonl")) : run(Quiet(options.world.rank));
  const int code = static_cast<int>(result.outcome);
  // Taking down a group whose peer is gone would wait for it.
  if (result.reason == "PEER_LOST") {
    std::fflush(nullptr);
    _exit(code);
  }
  return code;
}

}  // namespace finetuned::worker
