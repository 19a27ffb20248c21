// Checkpoints of a run: state_dir/checkpoints/step-00000120/
//   adapter_config.json, adapter_model.safetensors, README.md   the adapter, PEFT
//   optimizer.safetensors                                       Optimizer::State()
//   trainer_state.json                                          TrainerState
//   MANIFEST.json   {"format": "finetuned.checkpoint", "version": 1, "files": {name: sha256}}
// A folder of that name is complete: it was written as .tmp-..., synced and renamed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/lora/peft_files.h"
#include "engine/train/optimizer.h"

namespace finetuned::train {

inline constexpr int kCheckpointVersion = 1;

// What a checkpoint belongs to; a run goes on only from a checkpoint of the same.
struct RunIdentity {
  nlohmann::json spec;  // the settings that change results
  std::string base_fingerprint, dataset_sha256;
  std::string init_adapter_sha256;  // of its weights; empty: a new adapter
};

// Where a run stands after an optimizer step. All counts since the start of the run.
struct TrainerState {
  int64_t step = 0;              // optimizer steps done, skipped ones included: the scheduler's clock
  int64_t optimizer_updates = 0; // updates applied: Adam's clock
  int64_t epoch = 0;
  int64_t micro_batch = 0;       // next micro-batch of the epoch's plan
  int64_t pass = 0;              // micro-batches run: the dropout offset
  int64_t num_tokens = 0, trained_tokens = 0;
  int64_t skipped_in_row = 0;    // steps with non-finite gradients up to now
  // Of the evaluations after a step: the best value of the metric of spec.checkpoints, and when it was.
  std::optional<double> best_value;
  int64_t best_step = 0;
  int64_t evaluations_without_improvement = 0;
};

// Which checkpoints stay when a new one is written: the newest `last` (at least 1), and that of one step (-1: none).
struct KeepCheckpoints {
  int64_t last = 1;
  int64_t step = -1;
};

// Where the checkpoint of a step lies.
std::string CheckpointFolder(const std::string& state_dir, int64_t step);

// Writes the checkpoint of `state`.
struct WrittenCheckpoint {
  std::string directory;
  int64_t bytes = 0;
};
absl::StatusOr<WrittenCheckpoint> WriteCheckpoint(const std::string& state_dir,
                                                  const RunIdentity& identity,
                                                  const TrainerState& state,
                                                  const lora::Adapter& adapter,
                                                  const lora::PeftDescription& description,
                                                  const Optimizer& optimizer);
// After the newest has been announced: until then others may know of older ones only.
void RemoveOldCheckpoints(const std::string& state_dir, const KeepCheckpoints& keep);

// Of the checkpoints that are there, damaged ones included.
std::optional<int64_t> OldestCheckpointStep(const std::string& state_dir);

struct FoundCheckpoint {
  std::string directory;
  TrainerState state;
};
// The newest checkpoint whose files have the hashes of its manifest; damaged ones are passed over with
// a call of `warn`. No checkpoint: empty. FAILED_PRECONDITION when the newest intact one belongs to
// another run (says what differs) or has a newer format version.
absl::StatusOr<std::optional<FoundCheckpoint>> FindCheckpoint(
    const std::string& state_dir, const RunIdentity& identity,
    const std::function<void(const std::string&)>& warn);

// Fills adapter and optimizer.
absl::Status LoadCheckpoint(const std::string& directory, lora::Adapter* adapter,
                            Optimizer* optimizer);

}  // namespace finetuned::train
