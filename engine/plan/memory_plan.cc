#include "engine/plan/memory_plan.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_format.h"

namespace finetuned::plan {
namespace {

using format::ModelConfig;

struct Linear {
  const char* name;
  int64_t in, out;
};

std::array<Linear, 7> LayerLinears(const ModelConfig& m) {
  return {{{"q_proj", m.hidden_size, m.q_size()},
           {"k_proj", m.hidden_size, m.kv_size()},
           {"v_proj", m.hidden_size, m.kv_size()},
           {"o_proj", m.q_size(), m.hidden_size},
           {"gate_proj", m.hidden_size, m.intermediate_size},
           {"up_proj", m.hidden_size, m.intermediate_size},
           {"down_proj", m.intermediate_size, m.hidden_size}}};
}

bool IsTarget(const PlanInput& input, const std::string& name) {
  const auto& targets = input.target_modules;
  return targets.empty() || std::count(targets.begin(), targets.end(), "all-linear") > 0 ||
         std::count(targets.begin(), targets.end(), name) > 0;
}

// The tensors of an NF4 matrix: codes, one absmax byte per 64 weights, one float per 256 of these.
std::vector<int64_t> Nf4Parts(int64_t n) {
  const int64_t blocks = (n + 63) / 64;
  return {(n + 1) / 2, blocks, 4 * ((blocks + 255) / 256)};
}

// The fused linears of a layer, each with the sum of its adapters' ranks.
struct Fused {
  int64_t in, out, ranks;
};

struct FusedLinears {
  Fused qkv, o, gate_up, down;

  explicit FusedLinears(const PlanInput& input) {
    const auto linears = LayerLinears(input.model);
    const auto fuse = [&](size_t first, size_t count) {
      Fused f = {linears[first].in, 0, 0};
      for (size_t i = first; i < first + count; ++i) {
        f.out += linears[i].out;
        f.ranks += IsTarget(input, linears[i].name) ? input.lora_rank : 0;
      }
      return f;
    };
    qkv = fuse(0, 3);
    o = fuse(3, 1);
    gate_up = fuse(4, 2);
    down = fuse(6, 1);
  }
};

// What LibTorch's caching allocator takes from the device for an allocation, beyond its bytes: large ones are rounded
// up to 2 MiB; others share segments of 20 MiB, up to 1 MiB of 2 MiB, whose ends are lost.
int64_t AllocatorRounding(int64_t bytes) {
  constexpr int64_t kMiB = 1 << 20;
  if (bytes <= 0) return 0;
  if (bytes >= 10 * kMiB) return (bytes + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB) - bytes;
  const int64_t segment = bytes > kMiB ? 20 * kMiB : 2 * kMiB;
  const int64_t block = (bytes + 511) / 512 * 512;
  return segment / (segment / block) - bytes;
}

class Collector {
 public:
  explicit Collector(std::vector<Buffer>* out) : out_(out) {}
  // `bytes` of all copies, each an allocation of its own.
  void Add(const char* component, std::string name, int64_t bytes, int64_t copies = 1) {
    AddParts(component, std::move(name), {bytes / copies}, copies);
  }
  // A copy is several allocations of these bytes.
  void AddParts(const char* component, std::string name, const std::vector<int64_t>& parts, int64_t copies) {
    int64_t bytes = 0;
    for (int64_t part : parts) {
      bytes += copies * part;
      rounding_ += copies * AllocatorRounding(part);
    }
    if (bytes > 0) out_->push_back({std::move(name), component, bytes});
  }
  int64_t rounding() const { return rounding_; }

 private:
  std::vector<Buffer>* out_;
  int64_t rounding_ = 0;
};

void AddWeights(const PlanInput& in, Collector& c) {
  const ModelConfig& m = in.model;
  const int64_t embedding = m.vocab_size * m.hidden_size * in.compute_bytes;
  // A GPU reads an embedding that is not the head too from the host (model::PlaceEmbedding).
  if (m.tie_word_embeddings || !in.on_gpu) c.Add("weights", "embed_tokens", embedding);
  if (!m.tie_word_embeddings) c.Add("weights", "lm_head", embedding);
  c.Add("weights", "norms", (2 * m.num_hidden_layers + 1) * m.hidden_size * in.compute_bytes);
  for (const Linear& l : LayerLinears(m)) {
    const int64_t n = l.in * l.out;
    const std::vector<int64_t> parts =
        in.base == BaseFormat::kNf4 ? Nf4Parts(n) : std::vector<int64_t>{n * in.compute_bytes};
    c.AddParts("weights", std::string("layer.") + l.name, parts, m.num_hidden_layers);
  }
  if (in.base == BaseFormat::kNf4) {
    // One reused buffer holds the fused matrix in use, dequantized, with its adapters around it.
    const FusedLinears fused(in);
    int64_t largest = 0;
    for (const Fused& f : {fused.qkv, fused.o, fused.gate_up, fused.down}) {
      largest = std::max(largest, (f.out + f.ranks) * (f.in + SpareColumns(f.ranks)));
    }
    c.Add("runtime", "dequantized_weight", largest * in.compute_bytes);
  }
}

void AddAdapter(const PlanInput& in, Collector& c) {
  const int64_t n = CountLoraParameters(in);
  c.Add("adapter", "lora_master", 4 * n);
  if (in.compute_bytes != 4) c.Add("adapter", "lora_compute", in.compute_bytes * n);
  c.Add("gradients", "lora_gradients", 4 * n);
  // 8-bit states: two codes per parameter and two floats per 256.
  c.Add("optimizer", "moments",
        in.optimizer == Optimizer::kAdamW8bit ? 2 * n + 8 * ((n + 255) / 256) : 8 * n);
}

// The workspace of engine/model, by the names it has there.
void AddActivations(const PlanInput& in, Collector& c) {
  const ModelConfig& m = in.model;
  const FusedLinears fused(in);
  const int64_t t = in.micro_batch_size * in.max_seq_length, d = m.hidden_size, f = m.intermediate_size;
  const auto add = [&](const char* name, int64_t copies, int64_t columns, int64_t element_bytes) {
    c.Add("activations", name, copies * t * columns * element_bytes, copies);
  };
  const int64_t e = in.compute_bytes, layers = m.num_hidden_layers;
  add("layer.input", layers + 1, d, e);
  // What a layer's forward leaves for its backward: of every layer, or of the one that is recomputed.
  const int64_t kept = in.activation_checkpointing ? 1 : layers;
  add("layer.h1", kept, d + SpareColumns(fused.qkv.ranks), e);
  add("layer.qkv", kept, fused.qkv.out, e);
  add("layer.attn", kept, m.q_size() + SpareColumns(fused.o.ranks), e);
  add("layer.lse", kept, m.num_attention_heads, 4);
  add("layer.mid", kept, d, e);
  add("layer.h2", kept, d + SpareColumns(fused.gate_up.ranks), e);
  add("layer.gate_up", kept, 2 * f + SpareColumns(fused.gate_up.ranks), e);
  add("layer.act", kept, f + SpareColumns(fused.down.ranks), e);
  add("layer.rstd1", kept, 1, 4);
  add("layer.rstd2", kept, 1, 4);
  add("layer_output", 1, d, e);
  add("hidden", 1, d, e);
  add("hidden.rstd", 1, 1, 4);
  add("hidden.gradient", 1, d + SpareColumns(std::max(fused.o.ranks, fused.down.ranks)), e);
  add("backward.act", 1, f, e);
  add("backward.h", 1, d, e);
  add("backward.attn", 1, m.q_size(), e);
  add("backward.qkv", 1, fused.qkv.out + SpareColumns(fused.qkv.ranks), e);
  if (in.on_gpu) {
    // Of the backward of flash attention (kernels/varlen_attention.h); cuDNN's is smaller.
    const int64_t rows = t + 128 * in.micro_batch_size, head = (m.head_dim + 31) / 32 * 32;
    const int64_t grouped = m.num_key_value_heads < m.num_attention_heads ? 2 : 0;
    c.Add("activations", "attention_workspace",
          rows * m.num_attention_heads * (head + 1) * 4 +
              t * e * ((1 + grouped) * m.q_size() + 2 * m.kv_size()));
  }
  // Ids, positions, rows and labels of targets; their losses and hits.
  add("tokens", 1, 4, 4);
  add("loss.per_target", 1, 2, 4);
  add("loss.correct", 1, 1, 1);
}

}  // namespace

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

int64_t LogitsChunkRows(int64_t vocab_size) {
  constexpr int64_t kLogitsBytes = 256ll << 20;
  const int64_t rows = kLogitsBytes / (4 * std::max<int64_t>(1, vocab_size));
  return std::clamp<int64_t>(rows / 128 * 128, 128, 1024);
}

MemoryPlan PlanMemory(const PlanInput& input) {
  MemoryPlan plan;
  Collector c(&plan.buffers);
  AddWeights(input, c);
  AddAdapter(input, c);
  AddActivations(input, c);
  const int64_t rows = std::min(LogitsChunkRows(input.model.vocab_size),
                                input.micro_batch_size * input.max_seq_length);
  c.Add("logits", "logits_chunk", rows * input.model.vocab_size * 4);
  c.Add("logits", "loss.hidden", rows * input.model.hidden_size * input.compute_bytes);
  if (input.on_gpu) {
    // Context and loaded kernels; with cuBLAS 0.77 GB at most on an H100 (docs/measurements.md).
    c.Add("runtime", "cuda_context", 695'000'000);
    c.Add("runtime", "cublas_workspace", 72ll << 20);
    c.Add("runtime", "allocator_rounding", c.rounding());
  } else {
    c.Add("runtime", "process", 600'000'000);  // code and libraries: there the process is what is measured
  }
  return plan;
}

int64_t CountParameters(const ModelConfig& m) {
  int64_t per_layer = 2 * m.hidden_size;
  for (const Linear& l : LayerLinears(m)) per_layer += l.in * l.out;
  const int64_t embeddings = m.vocab_size * m.hidden_size * (m.tie_word_embeddings ? 1 : 2);
  return m.num_hidden_layers * per_layer + embeddings + m.hidden_size;
}

int64_t CountLoraParameters(const PlanInput& input) {
  int64_t n = 0;
  for (const Linear& l : LayerLinears(input.model)) {
    if (IsTarget(input, l.name)) n += input.lora_rank * (l.in + l.out);
  }
  return n * input.model.num_hidden_layers;
}

double TrainFlopsPerToken(const PlanInput& input, double mean_length) {
  const ModelConfig& m = input.model;
  double linears = static_cast<double>(m.vocab_size) * m.hidden_size;
  for (const Linear& l : LayerLinears(m)) {
    linears += static_cast<double>(l.in) * l.out * m.num_hidden_layers;
  }
  // Causal attention: two products over half the context, forward once and backward twice and a half.
  const double attention = 2.0 * m.num_hidden_layers * m.q_size() * mean_length / 2.0;
  const double recompute = input.activation_checkpointing ? 1.0 : 0.0;
  return 2.0 * linears * (2.0 + recompute) + 2.0 * attention * (3.5 + recompute) +
         6.0 * static_cast<double>(CountLoraParameters(input));
}

std::vector<Suggestion> SuggestFitting(const PlanInput& input, int64_t budget_bytes) {
  std::vector<Suggestion> found;
  auto consider = [&](PlanInput candidate, std::vector<std::string> fields, std::string change) {
    const int64_t total = PlanMemory(candidate).total();
    if (total > budget_bytes) return false;
    found.push_back({std::move(candidate), std::move(fields), total,
                     absl::StrFormat("%s: %s", change, FormatGigabytes(total))});
    return true;
  };
  if (!input.activation_checkpointing) {
    PlanInput c = input;
    c.activation_checkpointing = true;
    consider(c, {"compute.activation_checkpointing"}, "set compute.activation_checkpointing on");
  }
  for (int64_t b = input.micro_batch_size / 2; b >= 1; b /= 2) {
    PlanInput c = input;
    c.micro_batch_size = b;
    if (consider(c, {"schedule.micro_batch_size"},
                 absl::StrFormat("set schedule.micro_batch_size %d", b))) {
      break;
    }
  }
  if (input.base != BaseFormat::kNf4) {
    PlanInput c = input;
    c.base = BaseFormat::kNf4;
    consider(c, {"quantization.base"}, "set quantization.base nf4");
  }
  for (int64_t s = input.max_seq_length / 2; s >= 128; s /= 2) {
    PlanInput c = input;
    c.max_seq_length = s;
    if (consider(c, {"schedule.max_seq_length"},
                 absl::StrFormat("set schedule.max_seq_length %d", s))) {
      break;
    }
  }
  if (found.empty()) {
    PlanInput c = input;
    c.activation_checkpointing = true;
    c.base = BaseFormat::kNf4;
    c.micro_batch_size = 1;
    for (int64_t s = std::max<int64_t>(128, input.max_seq_length); s >= 128; s /= 2) {
      c.max_seq_length = s;
      if (consider(c,
                   {"compute.activation_checkpointing", "quantization.base",
                    "schedule.micro_batch_size", "schedule.max_seq_length"},
                   absl::StrFormat("set compute.activation_checkpointing on, quantization.base nf4, "
                                   "schedule.micro_batch_size 1 and schedule.max_seq_length %d",
                                   s))) {
        break;
      }
    }
  }
  return found;
}

std::string FormatGigabytes(int64_t bytes) {
  if (bytes < 100'000'000) return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
  return absl::StrFormat("%.1f GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace finetuned::plan
