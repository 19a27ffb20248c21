// Planned against measured memory: runs the probe and a step of the trainer for each setting, on one model with random
// weights, and prints one JSON line each. Settings are read from standard input, one JSON object a line:
//   {"documents": 4, "length": 2048, "rank": 16, "checkpointing": true, "optimizer": "adamw_8bit", "cap_gib": 24}
// length 0: the longest, in multiples of 64, whose plan fits the cap. The allocator may take the cap less what the
// plan sets aside for context and rounding. A setting whose plan is above its cap is printed with "skipped".
// "trace": true adds how often each size of at least 16 MiB was allocated.
//
// plan_matrix --shape llama-3.1-8b --format nf4|none [--device cuda|cpu]
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/plan/memory_plan.h"
#include "engine/train/device.h"
#include "engine/train/trainer.h"
#include "nlohmann/json.hpp"
#include "tests/bench/engine/allocation_log.h"
#include "tests/bench/engine/random_model.h"

namespace finetuned::bench {
namespace {

using nlohmann::json;

// Rows of `length` random tokens that all train.
data::TokenizedDataset RandomRows(int64_t rows, int64_t length, int64_t vocabulary) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocabulary - 1));
  data::TokenizedDataset set;
  for (int64_t i = 0; i < rows; ++i) {
    data::TokenizedRow& row = set.rows.emplace_back();
    for (int64_t t = 0; t < length; ++t) row.input_ids.push_back(token(random));
    row.trained.assign(row.input_ids.size(), 1);
  }
  set.stats.rows = rows;
  set.stats.tokens = rows * length;
  return set;
}

// Keeps what the first step measured and ends the run after it.
class OneStep : public job::RunObserver {
 public:
  explicit OneStep(job::RunControl* control) : control_(control) {}
  void OnPhase(const std::string&) override {}
  void OnPlan(int64_t, int64_t, const std::map<std::string, double>&) override {}
  void OnStep(int64_t, double, const std::map<std::string, double>& values) override {
    last_ = values;
    control_->cancel = true;
  }
  void OnEval(int64_t, const std::map<std::string, double>&) override {}
  void OnCheckpoint(int64_t, const std::string&, int64_t) override {}
  void OnWarning(const std::string& code, const std::string& text) override { warnings_[code] = text; }
  void OnLog(const std::string&) override {}

  const std::map<std::string, double>& last() const { return last_; }
  const std::map<std::string, std::string>& warnings() const { return warnings_; }

 private:
  job::RunControl* const control_;
  std::map<std::string, double> last_;
  std::map<std::string, std::string> warnings_;
};

job::TrainSpec SpecOf(const json& setting, const std::string& format) {
  job::TrainSpec spec;
  spec.lora.rank = setting.value("rank", 16);
  spec.lora.alpha = 16;
  spec.optimizer.kind = setting.value("optimizer", "adamw_8bit");
  spec.schedule.micro_batch_size = setting.value("documents", 1);
  spec.schedule.max_seq_length = setting.value("length", 1024);
  spec.schedule.epochs = 1000;
  spec.activation_checkpointing = setting.value("checkpointing", false);
  spec.base_quantization = format;
  return spec;
}

// The longest sequence whose plan is at most `cap`; 0 when none is.
int64_t LongestThatFits(plan::PlanInput input, int64_t cap) {
  constexpr int64_t kUnit = 64;
  int64_t fits = 0, above = 4096;  // in units
  while (above - fits > 1) {
    const int64_t middle = (fits + above) / 2;
    input.max_seq_length = middle * kUnit;
    (plan::PlanMemory(input).total() <= cap ? fits : above) = middle;
  }
  return fits * kUnit;
}

// What of a plan does not come from the allocator.
int64_t OutsideAllocator(const plan::MemoryPlan& plan) {
  int64_t sum = 0;
  for (const plan::Buffer& b : plan.buffers) sum += b.name == "cuda_context" || b.name == "process" ? b.bytes : 0;
  return sum;
}

void Measure(const job::TrainSpec& spec, const model::BaseModel& base, json* out) {
  const at::Device device = base.options.device;
  const data::TokenizedDataset rows =
      RandomRows(spec.schedule.micro_batch_size, spec.schedule.max_seq_length, base.config.vocab_size);
  job::RunControl control;
  OneStep observer(&control);
  train::ReleaseCachedMemory(device);
  train::ResetPeak(device);
  train::TrainerInputs in;
  in.spec = &spec;
  in.base = &base;
  in.train = &rows;
  in.observer = &observer;
  in.control = &control;
  train::Trainer trainer(std::move(in));
  const auto result = trainer.Run(std::nullopt);
  if (!result.ok()) (*out)["error"] = std::string(result.status().message());
  for (const auto& [name, value] : observer.last()) {
    if (name.starts_with("memory_") || name == "step_time" || name == "tokens_per_second") (*out)[name] = value;
  }
  if (!observer.warnings().empty()) (*out)["warnings"] = observer.warnings();
}

json RunSetting(json setting, const std::string& format, const model::BaseModel& base) {
  const int64_t cap = static_cast<int64_t>(setting.value("cap_gib", 24.0) * (1 << 30));
  job::TrainSpec spec = SpecOf(setting, format);
  if (spec.schedule.max_seq_length == 0) {
    spec.schedule.max_seq_length = LongestThatFits(train::PlanInputOf(spec, base), cap);
    setting["length"] = spec.schedule.max_seq_length;
    setting["filled"] = true;
    if (spec.schedule.max_seq_length == 0) return setting["skipped"] = true, setting;
  }
  const plan::MemoryPlan plan = plan::PlanMemory(train::PlanInputOf(spec, base));
  setting["planned"] = plan.total();
  if (plan.total() > cap) return setting["skipped"] = true, setting;
  train::CapMemory(base.options.device, cap - OutsideAllocator(plan));
  try {
    const AllocationLog log;
    Measure(spec, base, &setting);
    if (setting.value("trace", false)) setting["large_allocations"] = log.large();
  } catch (const c10::Error& error) {
    setting["error"] = std::string(error.what_without_backtrace()).substr(0, 300);
  }
  train::CapMemory(base.options.device, 0);
  return setting;
}

int Main(int argc, char** argv) {
  std::map<std::string, std::string> arguments = {{"--shape", ""}, {"--format", "nf4"}, {"--device", "cuda"}};
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!arguments.contains(argv[i])) {
      std::fprintf(stderr, "plan_matrix: unknown argument %s; see the head of plan_matrix.cc\n", argv[i]);
      return 64;
    }
    arguments[argv[i]] = argv[i + 1];
  }
  c10::InferenceMode no_autograd;
  const std::string& format = arguments["--format"];
  const at::Device device = arguments["--device"] == "cpu" ? at::Device(at::kCPU) : at::Device(at::kCUDA, 0);
  const auto base = RandomModel(Shape(arguments["--shape"]),
                                {device, device.is_cuda() ? at::kBFloat16 : at::kFloat, plan::ParseBaseFormat(format)});
  for (std::string line; std::getline(std::cin, line);) {
    if (line.empty()) continue;
    json out = RunSetting(json::parse(line), format, *base);
    out["shape"] = arguments["--shape"];
    out["format"] = format;
    std::printf("%s\n", out.dump().c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace finetuned::bench

int main(int argc, char** argv) {
  try {
    return finetuned::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plan_matrix: %s\n", error.what());
    return 1;
  }
}
