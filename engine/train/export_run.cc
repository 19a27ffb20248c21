#include "engine/train/export_run.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/export/export.h"
#include "engine/format/extended_model.h"
#include "engine/format/model_source.h"
#include "engine/job/failpoint.h"
#include "engine/train/files.h"
#include "engine/train/model_check.h"
#include "engine/train/tool_result.h"

namespace finetuned::train {
namespace {

using job::Outcome;

constexpr int64_t kComparedPositions = 128;  // whose logits are compared

exports::ExportOptions OptionsOf(const job::ExportSpec& spec) {
  exports::ExportOptions o;
  o.format = spec.format;
  o.quantization = spec.quantization;
  o.max_shard_bytes = spec.max_shard_bytes;
  o.ollama_modelfile = spec.ollama_modelfile;
  o.base_path = spec.base_model_path;
  o.base_name = spec.base_model_name;
  o.adapter_dir = spec.adapter_dir;
  o.name = spec.job_name.substr(spec.job_name.rfind('/') + 1);
  return o;
}

// One call of RunExport.
class Run {
 public:
  Run(const job::ExportSpec& spec, job::RunObserver& observer, job::RunControl& control)
      : spec_(spec), options_(OptionsOf(spec)), observer_(observer), control_(control) {}

  job::RunResult Execute() {
    if (absl::Status s = exports::CheckExportOptions(options_); !s.ok()) {
      return ToolFailure(Outcome::kBadConfig, "INVALID_SPEC", s.message());
    }
    auto lock = DirectoryLock::Take(spec_.state_dir);
    if (!lock.ok()) return FailureOf(lock.status(), "STATE_DIR_BUSY");
    RemoveLeftovers(spec_.state_dir);
    observer_.OnPhase("loading");
    auto source = format::OpenModelFor(spec_.base_model_path, spec_.adapter_dir);
    if (!source.ok()) return FailureOf(source.status(), "INVALID_MODEL");
    source_ = *source;
    absl::Status s = Write();
    FT_FAILPOINT("export.written");
    if (s.ok()) s = Check();
    FT_FAILPOINT("export.checked");
    if (!s.ok()) return FailureOf(s, "INVALID_MODEL");
    if (auto bad = Judge()) return *std::move(bad);
    s = exports::WriteManifest(options_, measured_, folder_->path());
    if (!s.ok()) return FailureOf(s, "INVALID_MODEL");
    FT_FAILPOINT("export.manifest_written");
    const auto bytes = folder_->Commit();
    if (!bytes.ok()) return FailureOf(bytes.status(), "INVALID_MODEL");
    measured_["bytes"] = static_cast<double>(*bytes);
    job::RunResult result;
    result.outcome = Outcome::kDone;
    result.adapter_dir = spec_.state_dir + "/export";
    result.last_step = 100;
    result.final_metrics = measured_;
    return result;
  }

 private:
  job::RunResult FailureOf(const absl::Status& s, const char* reason) const { return ToolFailureOf(s, reason, control_); }

  // A step is a hundredth of the bytes.
  absl::Status Write() {
    auto folder = NewDirectory::Create(spec_.state_dir, "export");
    if (!folder.ok()) return folder.status();
    folder_ = *std::move(folder);
    observer_.OnPhase("writing");
    observer_.OnPlan(0, 100, {});
    int64_t reported = 0;
    const auto report = [&](int64_t step, int64_t done, int64_t total) {
      if (step <= reported) return;
      reported = step;
      observer_.OnStep(step, 0, {{"bytes_written", static_cast<double>(done)}, {"bytes_total", static_cast<double>(total)}});
    };
    int64_t bytes = 0;
    const absl::Status s = exports::WriteExport(options_, source_, folder_->path(), [&](int64_t done, int64_t total) {
      FT_FAILPOINT("export.tensor_written");
      bytes = total;
      report(total > 0 ? done * 100 / total : 100, done, total);
      return !control_.cancel && !control_.leave;
    });
    if (s.ok()) report(100, bytes, bytes);  // headers and padding are in no tensor
    return s;
  }

  absl::Status Check() {
    observer_.OnPhase("verifying");
    if (options_.format == "peft") return absl::OkStatus();  // copies, whose checksums are in the manifest
    if (options_.format == "gguf_lora") {
      const auto difference = exports::LargestDifferenceOfLora(options_, *source_, folder_->path());
      if (difference.ok()) measured_["max_tensor_difference"] = *difference;
      return difference.status();
    }
    const std::string path = exports::ModelPathOf(options_, folder_->path());
    const auto written = format::OpenModel(path);
    if (!written.ok()) return written.status();
    job::ToolSpec shared = spec_;  // a GGUF file may have a shorter context
    shared.max_seq_length = std::min(shared.max_seq_length, (*written)->config().max_position_embeddings);
    const auto rows = RowsToScore(shared, *source_), again = RowsToScore(shared, **written);
    if (!rows.ok()) return rows.status();
    if (!again.ok()) return again.status();
    for (size_t i = 0; i < rows->size(); ++i) {
      if (i < again->size() && (*again)[i].input_ids == (*rows)[i].input_ids) continue;
      return absl::DataLossError(absl::StrCat("the exported tokenizer splits row ", i + 1, " in another way than the base's"));
    }
    const auto reference = ScoreModel({source_.get(), spec_.base_model_path, spec_.adapter_dir}, spec_, *rows,
                                      kComparedPositions, control_.cancel);
    if (!reference.ok()) return reference.status();
    const auto found = ScoreModel({written->get(), path, ""}, spec_, *rows, kComparedPositions, control_.cancel);
    if (!found.ok()) return found.status();
    measured_["max_logit_difference"] = LargestDifference(reference->logits, found->logits);
    measured_["reference_perplexity"] = reference->perplexity();
    measured_["perplexity"] = found->perplexity();
    measured_["perplexity_increase"] = found->perplexity() / reference->perplexity() - 1;
    measured_["tokens"] = static_cast<double>(found->tokens);
    observer_.OnEval(100, measured_);
    return absl::OkStatus();
  }

  std::optional<job::RunResult> Judge() const {
    if (const auto tensors = measured_.find("max_tensor_difference"); tensors != measured_.end() && tensors->second > 1e-6) {
      return ToolFailure(Outcome::kInternal, "IO_ERROR", absl::StrCat("adapter.gguf differs from the adapter by ", tensors->second));
    }
    const auto found = measured_.find("perplexity_increase");
    if (found == measured_.end()) return std::nullopt;
    const double bound = spec_.max_perplexity_increase.value_or(exports::DefaultPerplexityIncrease(options_));
    if (found->second <= bound) return std::nullopt;  // NaN is not
    return ToolFailure(Outcome::kBadConfig, "INVALID_CONFIGURATION",
                       absl::StrFormat("the export's perplexity is %.4f, that of base and adapter %.4f: %.2f %% more, "
                                       "export.max_perplexity_increase allows %.2f %%. Choose a larger quantization, or "
                                       "raise the bound",
                                       measured_.at("perplexity"), measured_.at("reference_perplexity"),
                                       100 * found->second, 100 * bound));
  }

  const job::ExportSpec& spec_;
  const exports::ExportOptions options_;
  job::RunObserver& observer_;
  job::RunControl& control_;
  std::shared_ptr<const format::ModelSource> source_;
  std::unique_ptr<NewDirectory> folder_;
  std::map<std::string, double> measured_;
};

}  // namespace

job::RunResult RunExport(const job::ExportSpec& spec, job::RunObserver& observer, job::RunControl& control) {
  try {
    return Run(spec, observer, control).Execute();
  } catch (const std::exception& e) {
    return ToolFailure(Outcome::kInternal, "INTERNAL", e.what());
  }
}

}  // namespace finetuned::train
