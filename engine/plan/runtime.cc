#include "engine/plan/collector.h"

namespace finetuned::plan {
namespace {

// The allocator's last segment of small and of medium blocks, which what a step makes in passing is taken from.
constexpr int64_t kOpenSegments = (2 + 20) << 20;

}  // namespace

void AddRuntime(const PlanInput& in, Collector& c) {
  if (!in.on_gpu) {
    c.Add("runtime", "process", in.device.cpu_process_bytes);
    return;
  }
  const int64_t rounding = c.rounding();
  c.Add("runtime", "cuda_context", in.device.context_bytes);
  c.Add("runtime", "library_workspaces", in.device.workspace_bytes);
  c.Add("runtime", "allocator_rounding", rounding + kOpenSegments);
}

}  // namespace finetuned::plan
