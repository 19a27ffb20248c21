#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/packing.h"
#include "engine/data/prompts.h"
#include "engine/generate/generator.h"
#include "engine/job/remote_scorer.h"
#include "engine/job/train_spec.h"
#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "engine/text/tokenizer.h"
#include "engine/train/world.h"

namespace finetuned::train {

// The micro-batches of one optimizer step.
struct Window {
  std::vector<data::PackedBatch> batches;
  int64_t step = 0;         // that they make, from 1
  uint64_t first_pass = 0;  // number of the first micro-batch since the start of the run
  job::Share share;         // of the batches, which this process computes
};

// What rollouts are made of, beside the rows; unset for other methods.
struct RolloutInputs {
  const text::Tokenizer* tokenizer = nullptr;
  const data::PromptSet* train = nullptr;
  const data::PromptSet* eval = nullptr;   // null: no evaluation
  job::RemoteScorer* scorer = nullptr;     // set when the job has remote rewards
};

// What a method works with; everything outlives it.
struct MethodInputs {
  const job::TrainSpec* spec = nullptr;
  const model::BaseModel* base = nullptr;
  const lora::Adapter* adapter = nullptr;
  model::Decoder* decoder = nullptr;
  at::Device device = at::kCPU;
  const data::TokenizedDataset* train = nullptr;
  const data::TokenizedDataset* eval = nullptr;  // null: no evaluation
  std::string reference_fingerprint;  // differs for every other base or start adapter
  RolloutInputs rollouts;
  std::string run_identity;  // text that differs for every other run
  job::RunObserver* observer = nullptr;
  const job::RunControl* control = nullptr;
  World* world = nullptr;    // null: this process is alone
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

  // Methods that make their own micro-batches: optimizer steps of an epoch. 0: windows come from the rows.
  virtual int64_t StepsPerEpoch() const { return 0; }
  // The micro-batches of a step, where StepsPerEpoch says so. May wait; CANCELLED when the run is to stop first.
  virtual absl::StatusOr<Window> MakeWindow(int64_t step, uint64_t first_pass);
  // The largest micro-batch there will be.
  virtual Window ProbeWindow(const data::BatchPlan& plan);

  // Adds the gradients of this process' share of the window's loss to the adapter's: over all processes they add up to
  // those of the loss, and so do the values measured. Waits for nothing: what was measured
  // is returned as float64 on the device and read together with everything else of the step.
  virtual at::Tensor AccumulateGradients(const Window& window) = 0;

  // The metrics of a step ("loss" among them), from what AccumulateGradients returned, now on the
  // host.
  virtual std::map<std::string, double> StepValues(const Window& window,
                                                   const double* measured) const = 0;

  // Forward passes over a window's tokens beside the one that trains.
  virtual double ReferencePasses() const { return 0; }

  // After `step`. Metrics of the evaluation set, names beginning with "eval_". REQUIRES: MethodInputs::eval is
  // set. Needs no more memory than a step. The processes of a run share the work and return the same.
  virtual std::map<std::string, double> Evaluate(int64_t step) = 0;
};

// Of spec.method, which is valid.
std::unique_ptr<Method> MakeMethod(const MethodInputs& inputs);

// How rows become micro-batches.
data::BatchPlanOptions BatchOptions(const job::TrainSpec& spec);
// The same in file order, for evaluation.
data::BatchPlanOptions EvalBatchOptions(const job::TrainSpec& spec);

// Adds eval_tokens (targets) and eval_runtime (seconds since `start`).
void AddEvalTotals(double targets, std::chrono::steady_clock::time_point start, std::map<std::string, double>* values);

// A generator for the sequences of `rollout` in the decoder's buffers, which do not grow for the prompts: at most
// `prefill_tokens` of these pass together, and no more than a micro-batch has rows at a time.
generate::GeneratorOptions GeneratorOptionsFor(const MethodInputs& inputs, const plan::Rollout& rollout,
                                               int64_t prefill_tokens);

// "running step 3 on a micro-batch of 812 tokens in 4 documents, the longest of 300 tokens".
std::string DescribeBatch(const Window& window, const data::PackedBatch& batch);

}  // namespace finetuned::train
