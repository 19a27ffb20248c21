#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/plan/memory_plan.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/api/models.h"
#include "server/jobs/job_manager.h"

namespace finetuned::api {

// "sft", "dpo", "kto", "grpo".
std::string MethodName(const v1::JobSpec& spec);

// A spec with every default and every automatic setting decided, and what it costs.
struct PlannedJob {
  v1::JobSpec resolved;
  v1::MemoryEstimate memory;
  std::vector<v1::SettingChoice> choices;
  plan::PlanInput input;                 // what `memory` was computed from
  std::shared_ptr<const Model> model;
  v1::Dataset dataset;
  std::string dataset_path;
};

// Decides what a spec means on this machine. Reads model headers and the first dataset row, so not for
// gRPC's threads. Thread safe.
class JobPlanner {
 public:
  JobPlanner(const jobs::Daemon& daemon, Models* models) : daemon_(daemon), models_(models) {}

  // Checks fields, dataset and model, resolves, chooses automatic settings. Does not refuse what will
  // not fit: that is CheckFits. INVALID_ARGUMENT, UNIMPLEMENTED, NOT_FOUND, FAILED_PRECONDITION.
  absl::StatusOr<PlannedJob> Plan(const v1::Job& job) const;

  // RESOURCE_EXHAUSTED, VRAM_BUDGET_EXCEEDED, with the cheapest change that would fit.
  static absl::Status CheckFits(const PlannedJob& planned);
  // Changes that would make it fit, cheapest first; empty when it fits.
  static std::vector<v1::SpecSuggestion> Suggest(const PlannedJob& planned);

  // The whole answer of PlanJob: counts tokens (of a large file, of its beginning) and estimates time
  // and disk. Seconds.
  absl::StatusOr<v1::JobPlan> FullPlan(const v1::Job& job) const;

 private:
  struct Device {
    bool gpu = false;
    int64_t budget_bytes = 0;  // 0: no limit
    int64_t free_bytes = 0;
    std::string product;
  };
  Device FindDevice(const v1::Job& job) const;
  absl::StatusOr<v1::Dataset> FindDataset(const std::string& name, const std::string& field,
                                          const std::string& method) const;

  const jobs::Daemon daemon_;
  Models* const models_;
};

}  // namespace finetuned::api
