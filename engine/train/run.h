#pragma once

#include <memory>

#include "engine/job/remote_scorer.h"
#include "engine/job/train_spec.h"
#include "engine/job/world.h"

// The whole of a training run behind one call. Free of LibTorch: what the worker's RPC half includes.
namespace finetuned::train {

class DeviceMemory;

// The base model of the last run, kept in device memory for the next one on the same base (equal
// fingerprint, quantization, compute type and device). Used by one run at a time.
class BaseModelCache {
 public:
  BaseModelCache();
  ~BaseModelCache();
  BaseModelCache(const BaseModelCache&) = delete;
  BaseModelCache& operator=(const BaseModelCache&) = delete;

  struct Impl;
  Impl* impl() { return impl_.get(); }

 private:
  std::unique_ptr<Impl> impl_;
};

// Runs or resumes the job of `spec.state_dir` on the calling thread until it is done or `control` says
// otherwise. `scorer` carries the questions of jobs with remote rewards. Never throws: errors of LibTorch and CUDA
// end here. Outcomes:
// With world.size > 1 it is one of that many processes with the same arguments, but for the rank, that see the same
// files; they run sft, dpo and kto. The first has what all have: its observer is told, and it writes.
//   kDone          adapter_dir holds the adapter as PEFT files.
//   kCheckpointed  control.leave; calling again goes on from there. OUT_OF_DEVICE_MEMORY: a plan that this device can
//                  hold does not fit what other processes leave of it now; the last step done is saved. PEER_LOST:
//                  another process of the world is gone; the run goes on from the last checkpoint, with any number of
//                  processes.
//   kCancelled     control.cancel; nothing was saved.
//   kBadConfig     INVALID_SPEC (message begins with the field), INVALID_MODEL, INVALID_ADAPTER, STATE_DIR_BUSY,
//                  CHECKPOINT_MISMATCH (state_dir belongs to another spec, base, dataset or start adapter),
//                  DEVICE_UNAVAILABLE, REWARDS_FAILED (no score at all in 5 rollouts in a row).
//   kBadData       INVALID_DATASET, with line.
//   kInternal      OUT_OF_DEVICE_MEMORY (more than the device has), NON_FINITE_LOSS (5 steps in a row), DISK_FULL (or
//                  read-only), IO_ERROR, GPU_XID_ERROR (the driver reports an error: this process is of no more use),
//                  INTERNAL.
job::RunResult RunTraining(const job::TrainSpec& spec, job::RunObserver& observer,
                           job::RunControl& control, BaseModelCache* cache = nullptr,
                           DeviceMemory* memory = nullptr, job::RemoteScorer* scorer = nullptr,
                           const job::WorldOptions& world = {});

}  // namespace finetuned::train
