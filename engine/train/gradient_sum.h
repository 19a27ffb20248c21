#pragma once

#include <cstdint>
#include <vector>

#include "engine/lora/adapter.h"
#include "engine/train/world.h"

namespace finetuned::train {

// Adds an adapter's gradients over the processes of a run: one flat buffer, in slices of several layers, each begun as
// soon as the last backward pass of a step has left its layers, so that the exchange runs beside the passes of the
// earlier layers (as torch's DistributedDataParallel overlaps its buckets).
class GradientSum {
 public:
  // Both outlive it; world may be null: a run alone, nothing is done.
  GradientSum(World* world, lora::Adapter* adapter);

  // A step begins in which this process makes `passes` backward passes.
  void Begin(int64_t passes);
  // A pass has added all it will to the gradients of `layer`. Layers come from the last to the first.
  void LayerDone(int64_t layer);
  // Begins what was not begun, and lets the stream wait for the sums.
  void Finish();

 private:
  // Elements [begin, end) of the gradients, complete when the last pass has left `layer`; -1: at the end of the step.
  struct Slice {
    int64_t begin, end, layer;
  };

  void StartUpTo(size_t slices);

  World* const world_;
  lora::Adapter* const adapter_;
  std::vector<Slice> slices_;  // in the order of the exchange
  int64_t passes_left_ = 0;
  size_t started_ = 0;
};

}  // namespace finetuned::train
