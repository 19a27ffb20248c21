#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/plan/memory_plan.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/api/device_budget.h"
#include "server/api/models.h"
#include "server/api/token_count.h"
#include "server/jobs/job_manager.h"

namespace finetuned::api {

// A spec with every default and every automatic setting decided, and what it costs.
struct PlannedJob {
  v1::JobSpec resolved;
  v1::MemoryEstimate memory;
  std::vector<v1::SettingChoice> choices;
  plan::PlanInput input;                 // what `memory` was computed from
  DeviceBudget device;
  double tokens_per_second = 0;          // 0: the device's speed is not known
  std::shared_ptr<const Model> model;    // null: only its shape is known
  v1::Dataset dataset;
  std::string dataset_path;
  std::optional<TokenCount> uncut;       // the rows before anything was cut, where they were looked at
};

// The settings of `input` that the plan may choose or a suggestion change, written into a spec.
void ApplyPlanInput(const plan::PlanInput& input, v1::JobSpec* spec);

// Decides what a spec means on this machine. Reads model headers and the first dataset row, so not for
// gRPC's threads. Thread safe.
class JobPlanner {
 public:
  JobPlanner(const jobs::Daemon& daemon, Models* models) : daemon_(daemon), models_(models) {}

  // Checks fields, dataset and model, resolves, chooses automatic settings. Does not refuse what will
  // not fit: that is CheckFits. INVALID_ARGUMENT, UNIMPLEMENTED, NOT_FOUND, FAILED_PRECONDITION.
  absl::StatusOr<PlannedJob> Plan(const v1::Job& job) const;

  // RESOURCE_EXHAUSTED: VRAM_BUDGET_EXCEEDED with the cheapest change that would fit, or HOST_MEMORY_EXCEEDED.
  static absl::Status CheckFits(const PlannedJob& planned);
  // Changes that would make it fit, cheapest first; empty when it fits.
  static std::vector<v1::SpecSuggestion> Suggest(const PlannedJob& planned);

  // The whole answer of PlanJob: counts tokens (of a large file, of its beginning) and estimates time
  // and disk. Seconds. Without a dataset the shape of the model is enough: "shapes/llama-3.1-8b" (plan/shapes.h), or a
  // folder with config.json; scheduling.vram_limit_bytes is then the memory of the card, whatever this machine has.
  absl::StatusOr<v1::JobPlan> FullPlan(const v1::Job& job) const;

 private:
  // Defaults, open settings and memory. REQUIRES: out->device, and model and dataset unless only `config` is known.
  absl::Status Settle(const v1::Job& job, const format::ModelConfig& config, PlannedJob* out) const;
  absl::StatusOr<PlannedJob> PlanShape(const v1::Job& job) const;
  // Takes what spec.init_adapter says of the adapter into job->spec.lora.
  absl::Status TakeInitAdapter(v1::Job* job) const;
  absl::StatusOr<v1::Dataset> FindDataset(const std::string& name, const std::string& field,
                                          const std::string& method) const;

  const jobs::Daemon daemon_;
  Models* const models_;
};

}  // namespace finetuned::api
