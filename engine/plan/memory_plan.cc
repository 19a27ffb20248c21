#include "engine/plan/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/plan/collector.h"
#include "engine/plan/linears.h"

namespace finetuned::plan {
namespace {

constexpr struct {
  const char* name;
  Method method;
} kMethods[] = {{"dpo", Method::kDpo}, {"kto", Method::kKto}, {"grpo", Method::kGrpo}, {"evaluate", Method::kEvaluate}};

constexpr struct {
  const char* name;
  BaseFormat format;
} kBaseFormats[] = {{"nf4", BaseFormat::kNf4},
                    {"fp4", BaseFormat::kFp4},
                    {"int8", BaseFormat::kInt8},
                    {"fp8", BaseFormat::kFp8},
                    {"none", BaseFormat::kCompute}};

}  // namespace

int64_t PlanInput::tokens() const {
  const int64_t sequences = method == Method::kDpo ? 2 : 1;  // chosen and rejected
  return micro_batch_size * sequences * max_seq_length;
}

int64_t PlanInput::targets() const {
  return rollout.max_new_tokens > 0 ? std::min(tokens(), micro_batch_size * rollout.max_new_tokens) : tokens();
}

const std::vector<std::string>& Components() {
  static const auto* const names = new std::vector<std::string>{
      "weights", "adapter", "gradients", "optimizer", "activations", "logits", "kv_cache", "runtime"};
  return *names;
}

int64_t MemoryPlan::total() const {
  int64_t sum = 0;
  for (const Buffer& b : buffers) sum += b.bytes;
  return sum;
}

int64_t MemoryPlan::component(const std::string& name) const {
  int64_t sum = 0;
  for (const Buffer& b : buffers) sum += b.component == name ? b.bytes : 0;
  return sum;
}

int64_t SpareColumns(int64_t ranks) { return (ranks + 7) / 8 * 8; }

MemoryPlan PlanMemory(const PlanInput& input) {
  MemoryPlan plan;
  Collector c(&plan.buffers);
  AddWeights(input, c);
  AddAdapter(input, c);
  AddActivations(input, c);
  AddLoss(input, c);
  AddGeneration(input, c);
  AddRuntime(input, c);
  return plan;
}

int64_t CountParameters(const format::ModelConfig& m) {
  int64_t per_layer = 0;
  for (const int64_t weights : NormWeights(m)) per_layer += weights;
  for (const Linear& l : LayerLinears(m)) per_layer += l.in * l.out;
  const int64_t embeddings = m.vocab_size * m.hidden_size * (m.tie_word_embeddings ? 1 : 2);
  return m.num_hidden_layers * per_layer + embeddings + m.hidden_size;
}

Method ParseMethod(const std::string& name) {
  for (const auto& known : kMethods) {
    if (name == known.name) return known.method;
  }
  return Method::kSft;
}

BaseFormat ParseBaseFormat(const std::string& name) {
  for (const auto& known : kBaseFormats) {
    if (name == known.name) return known.format;
  }
  return BaseFormat::kCompute;
}

const char* BaseFormatName(BaseFormat format) {
  for (const auto& known : kBaseFormats) {
    if (format == known.format) return known.name;
  }
  return "none";
}

std::string FormatGigabytes(int64_t bytes) {
  if (bytes < 100'000'000) return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
  return absl::StrFormat("%.1f GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace finetuned::plan
