#include "engine/worker/run_tool.h"

#include "engine/job/tool_spec.h"
#include "engine/train/evaluate_run.h"
#include "engine/train/export_run.h"

namespace finetuned::worker {
namespace {

constexpr int64_t kExportTokens = 4096;  // enough to judge a file by

job::ToolSpec ToToolSpec(const job::TrainSpec& run) {
  job::ToolSpec out;
  out.job_name = run.job_name;
  out.base_model_path = run.base_model_path;
  out.base_model_name = run.base_model_name;
  out.adapter_dir = run.init_adapter_path;
  out.dataset_path = run.dataset_path;
  out.state_dir = run.state_dir;
  out.device = run.device;
  out.compute_dtype = run.compute_dtype;
  out.max_seq_length = run.schedule.max_seq_length;
  out.double_quant = run.double_quant;
  out.int8_threshold = run.int8_threshold;
  out.lm_head_quantization = run.lm_head_quantization;
  out.skip_modules = run.skip_modules;
  out.cpu_threads = run.cpu_threads;
  return out;
}

job::ExportSpec ToExportSpec(const job::ToolSpec& tool, const v1::ExportSpec& from) {
  job::ExportSpec out{tool};
  out.max_tokens = kExportTokens;
  out.format = from.format();
  out.quantization = from.quantization();
  out.max_shard_bytes = from.max_shard_bytes();
  out.ollama_modelfile = from.ollama_modelfile();
  if (from.has_max_perplexity_increase()) out.max_perplexity_increase = from.max_perplexity_increase();
  return out;
}

job::EvaluateSpec ToEvaluateSpec(const job::ToolSpec& tool, const v1::EvaluateSpec& from) {
  job::EvaluateSpec out{tool};
  out.max_tokens = from.max_tokens();
  out.bases.assign(from.bases().begin(), from.bases().end());
  out.matmul_precisions.assign(from.matmul_precisions().begin(), from.matmul_precisions().end());
  return out;
}

}  // namespace

std::optional<job::RunResult> RunTool(const v1::JobSpec& spec, const job::TrainSpec& run,
                                      job::RunObserver& observer, job::RunControl& control) {
  const job::ToolSpec tool = ToToolSpec(run);
  if (spec.has_export_()) return train::RunExport(ToExportSpec(tool, spec.export_()), observer, control);
  if (spec.has_evaluate()) return train::RunEvaluate(ToEvaluateSpec(tool, spec.evaluate()), observer, control);
  return std::nullopt;
}

}  // namespace finetuned::worker
