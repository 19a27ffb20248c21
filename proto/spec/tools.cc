#include "proto/spec/tools.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace finetuned::spec {
namespace {

const Names kFormats = {"peft", "merged", "gguf", "gguf_lora"};
const Names kFloats = {"bf16", "f16", "f32"};
const Names kGguf = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q5_k_m", "q6_k"};
// Largest first.
const Names kBases = {"none", "int8", "fp8", "nf4", "fp4"};
const Names kPrecisions = {"bf16", "fp8", "int8"};

void CheckExport(const v1::JobSpec& spec, Checker& c) {
  const v1::ExportSpec& e = spec.export_();
  c.Required("export.format", e.format(), "gguf");
  c.OneOf("export.format", e.format(), kFormats);
  const bool alone = e.format() == "peft" || e.format() == "gguf_lora";
  if (alone && spec.init_adapter().empty()) {
    c.Add("init_adapter", absl::StrCat("is required by export.format ", e.format(), ", e.g. adapters/my-job"));
  }
  if (alone && !e.quantization().empty()) {
    c.Add("export.quantization", absl::StrCat("does not apply to ", e.format(), "; leave it empty"));
  }
  if (e.format() == "merged") c.OneOf("export.quantization", e.quantization(), kFloats);
  if (e.format() == "gguf") c.OneOf("export.quantization", e.quantization(), kGguf);
  c.Integer("export.max_shard_bytes", e.max_shard_bytes(), 1'000'000, int64_t{1} << 50);
  if (e.has_max_perplexity_increase()) c.Number("export.max_perplexity_increase", e.max_perplexity_increase(), 0, 1e9);
}

void CheckEvaluate(const v1::EvaluateSpec& e, Checker& c) {
  for (int i = 0; i < e.bases_size(); ++i) c.OneOf(absl::StrCat("evaluate.bases[", i, "]"), e.bases(i), kBases);
  for (int i = 0; i < e.matmul_precisions_size(); ++i) {
    c.OneOf(absl::StrCat("evaluate.matmul_precisions[", i, "]"), e.matmul_precisions(i), kPrecisions);
  }
  c.Integer("evaluate.max_tokens", e.max_tokens(), 2, int64_t{1} << 40);
}

}  // namespace

std::string MethodName(const v1::JobSpec& spec) {
  switch (spec.method_case()) {
    case v1::JobSpec::kSft: return "sft";
    case v1::JobSpec::kDpo: return "dpo";
    case v1::JobSpec::kKto: return "kto";
    case v1::JobSpec::kGrpo: return "grpo";
    case v1::JobSpec::kExport: return "export";
    case v1::JobSpec::kEvaluate: return "evaluate";
    case v1::JobSpec::METHOD_NOT_SET: break;
  }
  return "";
}

const std::vector<std::string>& MethodNames() {
  static const auto& kNames = *new Names{"sft", "dpo", "kto", "grpo", "export", "evaluate"};
  return kNames;
}

void CheckTool(const v1::JobSpec& spec, Checker& c) {
  if (spec.has_export_()) CheckExport(spec, c);
  if (spec.has_evaluate()) CheckEvaluate(spec.evaluate(), c);
  if (IsTool(spec) && !spec.eval_dataset().empty()) {
    c.Add("eval_dataset", "does not apply: rows to measure on go into dataset");
  }
}

void ResolveTool(v1::JobSpec* spec) {
  if (spec->has_export_()) {
    v1::ExportSpec* e = spec->mutable_export_();
    if (e->quantization().empty() && e->format() == "merged") e->set_quantization("bf16");
    if (e->quantization().empty() && e->format() == "gguf") e->set_quantization("q4_k_m");
    if (e->max_shard_bytes() == 0) e->set_max_shard_bytes(5'000'000'000);
    spec->mutable_quantization()->set_base("none");
    return;
  }
  v1::EvaluateSpec* e = spec->mutable_evaluate();
  if (e->bases_size() == 0) e->add_bases(spec->quantization().base().empty() ? "nf4" : spec->quantization().base());
  if (e->matmul_precisions_size() == 0) {
    const std::string& precision = spec->compute().matmul_precision();
    e->add_matmul_precisions(precision.empty() ? "bf16" : precision);
  }
  // What the memory plan counts: the largest of them.
  const auto place = [](const std::string& base) { return std::find(kBases.begin(), kBases.end(), base); };
  const auto largest = std::min_element(e->bases().begin(), e->bases().end(),
                                        [&](const auto& a, const auto& b) { return place(a) < place(b); });
  spec->mutable_quantization()->set_base(*largest);
}

}  // namespace finetuned::spec
