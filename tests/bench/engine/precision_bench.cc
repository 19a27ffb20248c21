// Trains one job once in each number format of the frozen products and prints a JSON line for each: held-out loss before
// and after, its distance from bfloat16's, seconds of the steps.
//
// precision_bench MODEL DATASET HELD_OUT STATE_DIR [STEPS=300] [SEED=1]
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/train/run.h"
#include "nlohmann/json.hpp"

namespace finetuned::bench {
namespace {

class Recorder : public job::RunObserver {
 public:
  void OnPhase(const std::string&) override {}
  void OnPlan(int64_t, int64_t, const std::map<std::string, double>&) override {}
  void OnStep(int64_t, double, const std::map<std::string, double>& values) override {
    seconds += values.at("step_time");
  }
  void OnEval(int64_t step, const std::map<std::string, double>& values) override {
    held_out[step] = values.at("eval_loss");
  }
  void OnCheckpoint(int64_t, const std::string&, int64_t) override {}
  void OnWarning(const std::string& code, const std::string& text) override {
    std::fprintf(stderr, "%s: %s\n", code.c_str(), text.c_str());
  }
  void OnLog(const std::string&) override {}

  std::map<int64_t, double> held_out;  // by step
  double seconds = 0;
};

int Main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: precision_bench MODEL DATASET HELD_OUT STATE_DIR [STEPS] [SEED]\n");
    return 64;
  }
  double reference = 0;
  for (const std::string precision : {"bf16", "fp8", "int8"}) {
    job::TrainSpec spec;
    spec.job_name = precision;
    spec.base_model_path = argv[1];
    spec.dataset_path = argv[2];
    spec.eval_dataset_path = argv[3];
    spec.state_dir = std::string(argv[4]) + "/" + precision;
    spec.schedule.max_steps = argc > 5 ? std::stoll(argv[5]) : 300;
    spec.schedule.micro_batch_size = 8;
    spec.optimizer.scheduler = "cosine";
    spec.evaluation.before_training = true;
    spec.evaluation.every_steps = 100;
    spec.matmul_precision = precision;
    spec.seed = argc > 6 ? std::stoull(argv[6]) : 1;
    std::filesystem::create_directories(spec.state_dir);
    Recorder recorder;
    job::RunControl control;
    const job::RunResult result = train::RunTraining(spec, recorder, control, nullptr);
    nlohmann::json out = {{"precision", precision}, {"steps", result.last_step}, {"seconds", recorder.seconds}};
    if (result.outcome != job::Outcome::kDone) {
      out["error"] = result.message;
    } else {
      for (const auto& [step, loss] : recorder.held_out) out["held_out"].push_back({step, loss});
      const double last = recorder.held_out.rbegin()->second;
      if (precision == "bf16") reference = last;
      out["relative_to_bf16"] = last / reference - 1;
    }
    std::printf("%s\n", out.dump().c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace finetuned::bench

int main(int argc, char** argv) { return finetuned::bench::Main(argc, argv); }
