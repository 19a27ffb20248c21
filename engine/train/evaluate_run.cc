#include "engine/train/evaluate_run.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/format/extended_model.h"
#include "engine/format/model_source.h"
#include "engine/train/files.h"
#include "engine/train/model_check.h"
#include "engine/train/tool_result.h"

namespace finetuned::train {
namespace {

using job::Outcome;

struct Variant {
  std::string base, precision;
  bool adapter = false;

  std::string name() const { return absl::StrCat(base, "/", precision, adapter ? "/adapter" : ""); }
};

std::vector<Variant> VariantsOf(const job::EvaluateSpec& spec) {
  std::vector<Variant> variants;
  for (const std::string& base : spec.bases) {
    for (const std::string& precision : spec.matmul_precisions) {
      if (precision != "bf16" && base != "nf4" && base != "fp4") continue;
      variants.push_back({base, precision, false});
      if (!spec.adapter_dir.empty()) variants.push_back({base, precision, true});
    }
  }
  return variants;
}

absl::StatusOr<job::RunResult> Execute(const job::EvaluateSpec& spec, job::RunObserver& observer,
                                       job::RunControl& control) {
  RemoveLeftovers(spec.state_dir);
  observer.OnPhase("loading");
  const auto source = format::OpenModelFor(spec.base_model_path, spec.adapter_dir);
  if (!source.ok()) return source.status();
  const auto rows = RowsToScore(spec, **source);
  if (!rows.ok()) return rows.status();
  const std::vector<Variant> variants = VariantsOf(spec);
  if (variants.empty()) {
    return absl::InvalidArgumentError("evaluate: no base goes with these matmul_precisions: fp8 and int8 need the base nf4 or fp4");
  }
  observer.OnPhase("evaluating");
  observer.OnPlan(0, static_cast<int64_t>(variants.size()), {{"rows", static_cast<double>(rows->size())}});
  job::RunResult result;
  for (const data::TokenizedRow& row : *rows) result.final_metrics["tokens"] += static_cast<double>(row.input_ids.size());
  nlohmann::ordered_json report = nlohmann::ordered_json::array();
  for (const Variant& v : variants) {
    if (control.leave) return absl::CancelledError("the evaluation was interrupted");
    const auto scores = ScoreModel({source->get(), spec.base_model_path, v.adapter ? spec.adapter_dir : "", v.base, v.precision},
                                   spec, *rows, 0, control.cancel);
    if (!scores.ok()) return scores.status();
    const std::map<std::string, double> values = {
        {"perplexity", scores->perplexity()},
        {"loss", scores->loss},
        {"tokens", static_cast<double>(scores->tokens)},
        {"base_bytes", static_cast<double>(scores->base_bytes)},
        {"tokens_per_second", static_cast<double>(scores->tokens) / scores->seconds}};
    const int64_t step = ++result.last_step;
    observer.OnStep(step, 0, {{"loss", scores->loss}});
    observer.OnEval(step, values);
    observer.OnLog(absl::StrCat(v.name(), ": perplexity ", scores->perplexity()));
    result.final_metrics["perplexity/" + v.name()] = scores->perplexity();
    result.final_metrics["loss/" + v.name()] = scores->loss;
    result.final_metrics["base_bytes/" + v.name()] = static_cast<double>(scores->base_bytes);
    report.push_back({{"base", v.base}, {"matmul_precision", v.precision}, {"adapter", v.adapter}, {"values", values}});
  }
  auto folder = NewDirectory::Create(spec.state_dir, "evaluation");
  if (!folder.ok()) return folder.status();
  const nlohmann::ordered_json file = {{"version", 1}, {"base_model", spec.base_model_name}, {"results", report}};
  if (absl::Status s = WriteFile((*folder)->path() + "/evaluation.json", file.dump(2) + "\n"); !s.ok()) return s;
  if (const auto bytes = (*folder)->Commit(); !bytes.ok()) return bytes.status();
  result.outcome = Outcome::kDone;
  result.adapter_dir = spec.state_dir + "/evaluation";
  return result;
}

}  // namespace

job::RunResult RunEvaluate(const job::EvaluateSpec& spec, job::RunObserver& observer, job::RunControl& control) {
  try {
    const auto lock = DirectoryLock::Take(spec.state_dir);
    if (!lock.ok()) return ToolFailureOf(lock.status(), "STATE_DIR_BUSY", control);
    auto result = Execute(spec, observer, control);
    return result.ok() ? *std::move(result) : ToolFailureOf(result.status(), "INVALID_MODEL", control);
  } catch (const std::exception& e) {
    return ToolFailure(Outcome::kInternal, "INTERNAL", e.what());
  }
}

}  // namespace finetuned::train
