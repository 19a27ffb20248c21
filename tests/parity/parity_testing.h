// What the parity tests share: golden files, tiny models, a recording observer.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "engine/data/dataset.h"
#include "engine/job/train_spec.h"
#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"

namespace finetuned::parity {

std::string GoldenPath(const std::string& name);
nlohmann::json ReadGoldenJson(const std::string& name);
// All tensors of a golden safetensors file, float32 or int32.
std::map<std::string, at::Tensor> ReadTensors(const std::string& path);

// A model of the golden folder.
std::shared_ptr<model::BaseModel> LoadGoldenModel(const std::string& name, const model::LoadOptions& options);
std::shared_ptr<model::BaseModel> LoadGoldenModel(const std::string& name, bool nf4);  // float32 on the CPU
// An adapter for it with the weights of a golden PEFT folder.
std::unique_ptr<lora::Adapter> LoadGoldenAdapter(const std::string& name,
                                                 const model::BaseModel& base);

// The batch of a golden file (input_ids, labels, cu_seqlens), or of rows.
data::PackedBatch GoldenBatch(const std::map<std::string, at::Tensor>& golden);
data::TokenizedDataset DatasetFromJson(const nlohmann::json& rows);

// Largest |a - b| over the largest |b|.
double RelativeError(const at::Tensor& a, const at::Tensor& b);

// Of each matrix of the adapter, the norm of its gradient and the product with cos(0), cos(1), ..., as the golden scripts
// write them, against the largest norm.
void ExpectGradients(const lora::Adapter& adapter, const nlohmann::json& want, double tolerance);

// A fresh directory below the test's temporary folder.
std::string NewTemporaryDirectory(const std::string& name);

// The whole file; empty where it cannot be read.
std::string FileBytes(const std::string& path);

// Keeps what a run reports.
class Recorder : public job::RunObserver {
 public:
  void OnPhase(const std::string& phase) override { phases.push_back(phase); }
  void OnPlan(int64_t first, int64_t total, const std::map<std::string, double>&) override {
    first_step = first;
    total_steps = total;
  }
  void OnStep(int64_t step, double epoch, const std::map<std::string, double>& values) override {
    steps.push_back(values);
    steps.back()["epoch"] = epoch;
    if (after_step) after_step(step);
  }
  void OnEval(int64_t step, const std::map<std::string, double>& values) override {
    evals.push_back(values);
  }
  void OnCheckpoint(int64_t step, const std::string& directory, int64_t) override {
    checkpoints.push_back(directory);
  }
  void OnWarning(const std::string& code, const std::string& text) override {
    warnings.push_back(code + ": " + text);
  }
  void OnLog(const std::string& text) override { logs.push_back(text); }

  int64_t first_step = -1, total_steps = -1;
  std::vector<std::string> phases, checkpoints, warnings, logs;
  std::vector<std::map<std::string, double>> steps, evals;
  std::function<void(int64_t)> after_step;
};

}  // namespace finetuned::parity
