#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// What LibTorch's caching allocator takes from the device for an allocation, beyond its bytes: large ones are rounded
// up to 2 MiB; others share segments of 20 MiB, up to 1 MiB of 2 MiB, whose ends are lost.
int64_t AllocatorRounding(int64_t bytes);

// Gathers the buffers of a plan and the rounding of their allocations.
class Collector {
 public:
  explicit Collector(std::vector<Buffer>* out) : out_(out) {}

  // `bytes` of all copies, each an allocation of its own. Nothing is added for 0 bytes.
  void Add(const char* component, std::string name, int64_t bytes, int64_t copies = 1);
  // A copy is several allocations of these bytes.
  void AddParts(const char* component, std::string name, const std::vector<int64_t>& parts, int64_t copies);
  int64_t rounding() const { return rounding_; }

 private:
  std::vector<Buffer>* out_;
  int64_t rounding_ = 0;
};

// Inputs of INT8 products of `rows` rows, in a workspace whose names begin with `prefix`.
void AddInt8Inputs(const PlanInput& in, int64_t rows, const std::string& prefix, Collector& c);  // activations.cc

// One function per part of a step, each in a file of its own. They name buffers as the engine's workspace does.
void AddWeights(const PlanInput& in, Collector& c);      // weights.cc
void AddAdapter(const PlanInput& in, Collector& c);      // adapter.cc: adapter, gradients, optimizer
void AddActivations(const PlanInput& in, Collector& c);  // activations.cc
void AddLoss(const PlanInput& in, Collector& c);         // loss.cc: lm_head and loss
void AddGeneration(const PlanInput& in, Collector& c);   // generation.cc: cache and decode steps of rollouts
void AddRuntime(const PlanInput& in, Collector& c);      // runtime.cc: last, it adds the rounding of the others

}  // namespace finetuned::plan
