#pragma once

#include <ATen/core/Tensor.h>

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
#include "engine/train/method.h"
#include "engine/train/optimizer.h"

namespace finetuned::train {

// What the plan of such a run is made from.
plan::PlanInput PlanInputOf(const job::TrainSpec& spec, const model::BaseModel& base);

// What a run trains on. Everything must outlive the trainer.
struct TrainerInputs {
  const job::TrainSpec* spec = nullptr;      // valid
  const model::BaseModel* base = nullptr;
  const data::TokenizedDataset* train = nullptr;
  const data::TokenizedDataset* eval = nullptr;  // null: no evaluation
  RunIdentity identity;
  job::RunObserver* observer = nullptr;
  job::RunControl* control = nullptr;
  std::string* doing = nullptr;  // kept at what runs now, for the message of a failure
};

// One run: adapter, optimizer, the order of the data, and the loop; what is special to a method is in Method. Use once, inside
// c10::InferenceMode, on one thread. Throws c10::Error on failures of the device.
class Trainer {
 public:
  explicit Trainer(TrainerInputs inputs);

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
    int64_t tokens = 0, targets = 0;
    double seconds = 0;
  };

  absl::Status Loop();
  StepResult TrainStep();
  // The micro-batches of the next optimizer step; moves the cursor past them.
  Window NextWindow();
  StepResult UpdateAdapter(const Window& window, const at::Tensor& measured);
  void ProbeLargestBatch();

  absl::Status CountSkipped(const StepResult& result);
  void ReportStep(const StepResult& result);
  // Evaluates once per step, keeps the best checkpoint and counts towards early stopping.
  absl::Status Evaluate();
  absl::Status TrackBest(const std::map<std::string, double>& values);
  bool StoppedEarly() const;
  absl::Status Checkpoint();
  absl::Status LoadBest();
  absl::StatusOr<std::string> Export();
  bool Due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  MethodInputs InputsOfMethod();
  void Doing(std::string what);

  const TrainerInputs in_;
  const job::TrainSpec& spec_;
  const at::Device device_;
  lora::Adapter adapter_;
  Optimizer optimizer_;
  model::Decoder decoder_;
  const std::unique_ptr<Method> method_;
  const lora::PeftDescription description_;
  plan::PlanInput plan_input_;
  data::BatchPlan plan_;      // of state_.epoch
  TrainerState state_;
  int64_t total_steps_ = 0;
  int64_t checkpointed_step_ = -1;
  int64_t evaluated_step_ = -1;
  std::map<std::string, double> last_values_;
  job::RunResult result_;
};

}  // namespace finetuned::train
