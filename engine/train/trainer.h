#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/packing.h"
#include "engine/job/train_spec.h"
#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "engine/train/checkpoint.h"
#include "engine/train/device.h"
#include "engine/train/eval_samples.h"
#include "engine/train/gradient_sum.h"
#include "engine/train/method.h"
#include "engine/train/optimizer.h"

namespace finetuned::train {

// What the plan of such a run is made from.
plan::PlanInput PlanInputOf(const job::TrainSpec& spec, const model::BaseModel& base);

// The spec is valid.
lora::Options LoraOptionsOf(const job::TrainSpec& spec);

// Whether the run compares with a frozen adapter: it starts from one, and its method has a reference.
bool HasFrozenAdapter(const job::TrainSpec& spec);

// What a run trains on. Everything must outlive the trainer.
struct TrainerInputs {
  const job::TrainSpec* spec = nullptr;      // valid
  const model::BaseModel* base = nullptr;
  const data::TokenizedDataset* train = nullptr;
  const data::TokenizedDataset* eval = nullptr;  // null: no evaluation
  const lora::Adapter* reference = nullptr;  // frozen; null: the base alone is the reference
  RolloutInputs rollouts;                    // GRPO; the tokenizer for every method
  const format::TokenizerTexts* extended_tokenizer = nullptr;  // saved beside the adapter; null: the base's will do
  RunIdentity identity;
  job::RunObserver* observer = nullptr;
  job::RunControl* control = nullptr;
  std::string* doing = nullptr;  // kept at what runs now, for the message of a failure
  DeviceMemory* memory = nullptr;  // null: the device's own
  World* world = nullptr;          // null: the run is one process
};

// One run: adapter, optimizer, the order of the data, and the loop; what is special to a method is in Method. Use once,
// inside c10::InferenceMode, on one thread. Throws c10::Error on failures of the device.
//
// Memory that another process took is not such a failure: the step that did not fit is done again with the next plan
// (plan::NextPlan), which leaves the optimizer steps what they are; the warning REPLANNED tells. When there is none,
// the run leaves with a checkpoint: kCheckpointed, OUT_OF_DEVICE_MEMORY.
//
// With a world every process runs the same steps over the same windows and computes its share of each. What one is told
// to do (RunControl) all do after the same step; the first writes checkpoints and the adapter. PeerLost is thrown. Memory
// that runs out ends the process.
class Trainer {
 public:
  explicit Trainer(TrainerInputs inputs);
  ~Trainer();

  // Initialized from spec.seed; may be filled with other weights before Run.
  lora::Adapter& adapter() { return adapter_; }

  // Goes on from `from` when given. Status errors: IO (UNAVAILABLE), and ABORTED when gradients were
  // not finite for five steps in a row.
  absl::StatusOr<job::RunResult> Run(const std::optional<FoundCheckpoint>& from);

 private:
  // What one optimizer step measured, on the host.
  struct StepResult {
    std::map<std::string, double> values;  // of the method
    double grad_norm = 0, learning_rate = 0;
    bool skipped = false;
    std::vector<int64_t> lines;  // of the dataset, when the step was skipped
    int64_t tokens = 0, targets = 0;
    double seconds = 0;
  };

  absl::Status Loop();
  // RESOURCE_EXHAUSTED: the device has too little memory for any plan; CANCELLED: the run is to stop before the step
  // can be taken. state_ is where it was.
  absl::StatusOr<StepResult> TrainStep();
  absl::StatusOr<StepResult> TryStep();
  // The micro-batches of the next optimizer step; moves the cursor past them.
  absl::StatusOr<Window> NextWindow();
  StepResult UpdateAdapter(const Window& window, const at::Tensor& measured_here);
  at::Tensor MeasuredByAll(const at::Tensor& measured);
  void Agree(const double* wishes);
  // Where memory can run out, takes that of the largest micro-batch now, so that what does not fit shows before step 1
  // and later steps allocate nothing. False: no plan fits.
  bool ProbeLargestBatch();
  // Tensors may take what the plan gives them and kPlanMargin of it more, but never more than spec.memory_limit_bytes
  // leaves: whatever takes more fails here and not in another process.
  void CapToPlan();
  // What tensors hold or could get, within the limit; 0: not known.
  int64_t MemoryOfTensors() const;
  // After a failure for want of memory, goes on with a higher cap where the plan was too low and the limit leaves room,
  // else as Replan.
  bool FindMemory(const std::string& error);
  void RunLargestBatch();
  // Goes over to the next plan that fits what is there; false: there is none.
  bool Replan(const std::string& error);
  absl::Status LeaveForMemory();

  // What all processes do next: in_.control of a run alone, else what any of them was told up to the last step.
  job::RunControl& control() { return in_.world == nullptr ? *in_.control : agreed_; }
  bool IsFirst() const { return ShareOf(in_.world).index == 0; }

  absl::Status CountSkipped(const StepResult& result);
  void ReportStep(const StepResult& result);
  // Evaluates once per step, keeps the best checkpoint and counts towards early stopping.
  absl::Status Evaluate();
  absl::Status TrackBest(const std::map<std::string, double>& values);
  bool StoppedEarly() const;
  absl::Status Checkpoint();
  absl::Status LoadBest();
  absl::StatusOr<std::string> Export();
  bool CheckpointDue();
  bool Due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  // Epochs done, with their fraction.
  double Epoch() const;
  int64_t TotalStepsOfRun() const;
  MethodInputs InputsOfMethod();
  model::DecoderOptions DecoderOptions();
  // The state with its cursor in micro-batches of the job, whatever the plan is now: what a checkpoint keeps.
  TrainerState StateOfJob() const;
  void Doing(std::string what);

  const TrainerInputs in_;
  job::TrainSpec spec_;  // in use: the job's until a Replan
  const at::Device device_;
  lora::Adapter adapter_;
  Optimizer optimizer_;
  DeviceMemory own_memory_;
  DeviceMemory& memory_;
  int64_t cap_ = 0;           // in force; 0: none
  bool capped_by_plan_ = false;  // and not by what there is
  GradientSum gradient_sum_;
  job::RunControl agreed_;
  std::optional<model::Decoder> decoder_;  // empty only while its memory is given back
  const std::unique_ptr<Method> method_;
  std::optional<EvalSampler> sampler_;  // with evaluation.sample_prompts, of methods that do not generate
  const lora::PeftDescription description_;
  plan::PlanInput plan_input_;
  data::BatchPlan plan_;      // of state_.epoch
  TrainerState state_;
  int64_t total_steps_ = 0;
  int64_t checkpointed_step_ = -1;
  std::chrono::steady_clock::time_point checkpointed_at_ = std::chrono::steady_clock::now();
  double checkpoint_seconds_ = 0;  // the last write, until a step reports it
  int64_t evaluated_step_ = -1;
  bool updating_ = false;     // the optimizer may have changed something: the step cannot be done again
  std::map<std::string, double> last_values_;
  job::RunResult result_;
};

}  // namespace finetuned::train
