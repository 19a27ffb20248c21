#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/data/dataset.h"
#include "engine/data/packing.h"
#include "engine/job/train_spec.h"
#include "engine/model/decoder.h"

namespace finetuned::train {

// The micro-batches of one optimizer step.
struct Window {
  std::vector<data::PackedBatch> batches;
  int64_t step = 0;         // that they make, from 1
  uint64_t first_pass = 0;  // number of the first micro-batch since the start of the run
};

// What a method works with; everything outlives it.
struct MethodInputs {
  const job::TrainSpec* spec = nullptr;
  model::Decoder* decoder = nullptr;
  at::Device device = at::kCPU;
  const data::TokenizedDataset* train = nullptr;
  const data::TokenizedDataset* eval = nullptr;  // null: no evaluation
  std::string base_fingerprint;
  job::RunObserver* observer = nullptr;
  std::function<void(std::string)> doing;  // told before each pass over a micro-batch what runs now
};

// What a training method adds to the loop: how a window becomes gradients, and what is measured.
// The loop itself, the optimizer, checkpoints and the order of the data are the trainer's. One
// thread, inside c10::InferenceMode; failures of the device are thrown (c10::Error).
class Method {
 public:
  virtual ~Method() = default;

  // Once, before the first step. Status as Trainer::Run.
  virtual absl::Status Prepare() { return absl::OkStatus(); }

  // Adds the gradients of the window's loss to the adapter's. Waits for nothing: what was measured
  // is returned as float64 on the device and read together with everything else of the step.
  virtual at::Tensor AccumulateGradients(const Window& window) = 0;

  // The metrics of a step ("loss" among them), from what AccumulateGradients returned, now on the
  // host.
  virtual std::map<std::string, double> StepValues(const Window& window,
                                                   const double* measured) const = 0;

  // Metrics of the evaluation set, names beginning with "eval_". REQUIRES: MethodInputs::eval is
  // set. Needs no more memory than a step.
  virtual std::map<std::string, double> Evaluate() = 0;
};

// Of spec.method, which is valid.
std::unique_ptr<Method> MakeMethod(const MethodInputs& inputs);

// How rows become micro-batches.
data::BatchPlanOptions BatchOptions(const job::TrainSpec& spec);
// The same in file order, for evaluation.
data::BatchPlanOptions EvalBatchOptions(const job::TrainSpec& spec);

// "running step 3 on a micro-batch of 812 tokens in 4 documents, the longest of 300 tokens".
std::string DescribeBatch(const Window& window, const data::PackedBatch& batch);

}  // namespace finetuned::train
