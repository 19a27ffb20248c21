// Planned against measured memory: runs the probe, perhaps an evaluation, and a step of the trainer for each setting, on
// models with random weights, and prints one JSON line each. Settings are read from standard input, one JSON object a
// line; what is left out has the value given here:
//   {"shape": "llama-3.1-8b", "format": "nf4", "precision": "bf16", "method": "sft", "documents": 1, "length": 1024,
//    "accumulation": 1, "rank": 16, "dropout": 0, "targets": [], "optimizer": "adamw_8bit", "checkpointing": "off",
//    "offload": false, "deterministic": false, "evaluation": false, "cap_gib": 24,
//    "group": 8, "completion": 64, "prompts": 0}
// checkpointing: a word as compute.activation_checkpointing. group, completion, prompts: of grpo.
// length 0: the longest, in multiples of 64, whose plan fits the cap, which is the run's memory_limit_bytes. A setting whose plan is above its cap is printed with "skipped".
// "trace": true adds how often each size of at least 16 MiB was allocated.
//
// plan_matrix STATE_DIR [cuda|cpu]
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <utility>

#include "engine/plan/auto_settings.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/precision.h"
#include "engine/train/device.h"
#include "engine/train/measure_device.h"
#include "engine/train/trainer.h"
#include "nlohmann/json.hpp"
#include "tests/bench/engine/allocation_log.h"
#include "tests/bench/engine/one_step.h"
#include "tests/bench/engine/random_model.h"

namespace finetuned::bench {
namespace {

using nlohmann::json;

job::TrainSpec SpecOf(const json& setting) {
  job::TrainSpec spec;
  spec.method = setting.value("method", "sft");
  spec.lora.rank = setting.value("rank", 16);
  spec.lora.alpha = 16;
  spec.lora.dropout = setting.value("dropout", 0.0);
  if (setting.contains("targets")) spec.lora.target_modules = setting["targets"];
  spec.optimizer.kind = setting.value("optimizer", "adamw_8bit");
  spec.schedule.micro_batch_size = setting.value("documents", 1);
  spec.schedule.gradient_accumulation_steps = setting.value("accumulation", 1);
  spec.schedule.max_seq_length = setting.value("length", 1024);
  spec.schedule.epochs = 1000;
  plan::PlanInput policy;
  TORCH_CHECK(plan::ParseCheckpointing(setting.value("checkpointing", "off"), &policy), "checkpointing: not such a word");
  spec.activation_checkpointing = policy.activation_checkpointing;
  spec.keep_all_layers = policy.keep_all_layers;
  spec.keep_attention_layers = policy.keep_attention_layers;
  spec.activation_piece_rows = policy.piece_rows;
  spec.activation_offload = setting.value("offload", false);
  spec.deterministic = setting.value("deterministic", false);
  spec.evaluation.before_training = setting.value("evaluation", false);
  spec.base_quantization = setting.value("format", "nf4");
  spec.matmul_precision = setting.value("precision", "bf16");
  spec.grpo.group_size = setting.value("group", 8);
  spec.grpo.max_completion_tokens = setting.value("completion", 64);
  spec.grpo.prompts_per_rollout = setting.value("prompts", 0);
  spec.grpo.builtin_rewards = {{"length", 1, {{"max", "32"}}}};
  return spec;
}

// The longest sequence whose plan is at most `cap`; 0 when none is.
int64_t LongestThatFits(job::TrainSpec spec, const model::BaseModel& base, int64_t cap) {
  constexpr int64_t kUnit = 64;
  int64_t fits = 0, above = 4096;  // in units
  while (above - fits > 1) {
    const int64_t middle = (fits + above) / 2;
    spec.schedule.max_seq_length = middle * kUnit;
    (plan::PlanMemory(train::PlanInputOf(spec, base)).total() <= cap ? fits : above) = middle;
  }
  return fits * kUnit;
}

class Matrix {
 public:
  Matrix(std::string state_dir, at::Device device) : state_dir_(std::move(state_dir)), device_(device) {
    const auto measured = device.is_cuda() ? train::MeasureDevice(device.index()) : std::nullopt;
    if (measured) constants_ = *measured;
    std::printf("%s\n", json{{"measured", measured.has_value()},
                             {"context_bytes", constants_.context_bytes},
                             {"workspace_bytes", constants_.workspace_bytes}}
                            .dump()
                            .c_str());
  }

  json Run(json setting) {
    const auto start = std::chrono::steady_clock::now();
    job::TrainSpec spec = SpecOf(setting);
    spec.state_dir = state_dir_ + "/" + std::to_string(++runs_);
    spec.device_constants = constants_;
    const model::BaseModel& base = Base(setting.at("shape"), spec);
    const int64_t cap = static_cast<int64_t>(setting.value("cap_gib", 24.0) * (1 << 30));
    if (spec.schedule.max_seq_length == 0) {
      spec.schedule.max_seq_length = LongestThatFits(spec, base, cap);
      setting["length"] = spec.schedule.max_seq_length;
      setting["filled"] = true;
      if (spec.schedule.max_seq_length == 0) return setting["skipped"] = true, setting;
    }
    const plan::MemoryPlan plan = plan::PlanMemory(train::PlanInputOf(spec, base));
    setting["planned"] = plan.total();
    for (const plan::Buffer& b : plan.buffers) {
      if (b.component == "runtime") setting["runtime"][b.name] = b.bytes;
    }
    if (plan.total() > cap) return setting["skipped"] = true, setting;
    spec.memory_limit_bytes = cap;
    train::ConfigureLibrary(spec);
    Measure(spec, base, &setting);
    setting["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return setting;
  }

 private:
  const model::BaseModel& Base(const std::string& shape, const job::TrainSpec& spec) {
    const std::string key = shape + "/" + spec.base_quantization + "/" + spec.matmul_precision;
    if (key == base_key_) return *base_;
    base_.reset();
    train::ReleaseCachedMemory(device_);
    format::ModelConfig config = Shape(shape);
    // Completions of random tokens end here and there, so that rows of every number decode together.
    for (int64_t id = 0; id < config.vocab_size / 40; ++id) config.eos_token_ids.push_back(static_cast<int32_t>(id));
    base_ = RandomModel(config, {device_, device_.is_cuda() ? at::kBFloat16 : at::kFloat,
                                 plan::ParseBaseFormat(spec.base_quantization),
                                 plan::ParsePrecision(spec.matmul_precision)});
    base_key_ = key;
    return *base_;
  }

  static void Measure(const job::TrainSpec& spec, const model::BaseModel& base, json* out) {
    try {
      const AllocationLog log;
      const StepReport report = RunOneStep(spec, base);
      if (out->value("trace", false)) (*out)["large_allocations"] = log.large();
      if (!report.error.empty()) (*out)["error"] = report.error;
      if (!report.warnings.empty()) (*out)["warnings"] = report.warnings;
      for (const auto& [name, value] : report.values) {
        if (name.starts_with("memory_") || name == "step_time" || name == "tokens_per_second") (*out)[name] = value;
      }
    } catch (const c10::Error& error) {
      (*out)["error"] = std::string(error.what_without_backtrace()).substr(0, 300);
    }
  }

  const std::string state_dir_;
  const at::Device device_;
  plan::DeviceConstants constants_;
  std::string base_key_;
  std::shared_ptr<model::BaseModel> base_;
  int64_t runs_ = 0;
};

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "plan_matrix STATE_DIR [cuda|cpu]; see the head of plan_matrix.cc\n");
    return 64;
  }
  c10::InferenceMode no_autograd;
  const bool cpu = argc > 2 && std::string(argv[2]) == "cpu";
  Matrix matrix(argv[1], cpu ? at::Device(at::kCPU) : at::Device(at::kCUDA, 0));
  for (std::string line; std::getline(std::cin, line);) {
    if (line.empty()) continue;
    std::printf("%s\n", matrix.Run(json::parse(line)).dump().c_str());
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
