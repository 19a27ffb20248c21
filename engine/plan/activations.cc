#include <algorithm>

#include "engine/plan/collector.h"
#include "engine/plan/linears.h"

namespace finetuned::plan {
namespace {

// Adds buffers of `rows` rows.
class Rows {
 public:
  Rows(int64_t rows, Collector& c) : rows_(rows), c_(c) {}
  void Add(const char* name, int64_t copies, int64_t columns, int64_t element_bytes) const {
    c_.Add("activations", name, copies * rows_ * columns * element_bytes, copies);
  }

 private:
  const int64_t rows_;
  Collector& c_;
};

// What a layer's forward leaves for its backward: of every layer, or of the one that is recomputed.
void AddKept(const PlanInput& in, const FusedLinears& fused, const Rows& rows) {
  const format::ModelConfig& m = in.model;
  const int64_t d = m.hidden_size, f = m.intermediate_size, e = in.compute_bytes;
  const int64_t kept = in.activation_checkpointing ? 1 : m.num_hidden_layers;
  rows.Add("layer.h1", kept, d + SpareColumns(fused.qkv.ranks), e);
  rows.Add("layer.qkv", kept, fused.qkv.out, e);
  rows.Add("layer.attn", kept, m.q_size() + SpareColumns(fused.o.ranks), e);
  rows.Add("layer.lse", kept, m.num_attention_heads, 4);
  rows.Add("layer.mid", kept, d, e);
  rows.Add("layer.h2", kept, d + SpareColumns(fused.gate_up.ranks), e);
  rows.Add("layer.gate_up", kept, 2 * f + SpareColumns(fused.gate_up.ranks), e);
  rows.Add("layer.act", kept, f + SpareColumns(fused.down.ranks), e);
  rows.Add("layer.rstd1", kept, 1, 4);
  rows.Add("layer.rstd2", kept, 1, 4);
}

// Shared by all layers.
void AddShared(const PlanInput& in, const FusedLinears& fused, const Rows& rows) {
  const format::ModelConfig& m = in.model;
  const int64_t d = m.hidden_size, f = m.intermediate_size, e = in.compute_bytes;
  rows.Add("layer.input", m.num_hidden_layers + 1, d, e);
  rows.Add("layer_output", 1, d, e);
  rows.Add("hidden", 1, d, e);
  rows.Add("hidden.rstd", 1, 1, 4);
  rows.Add("hidden.gradient", 1, d + SpareColumns(std::max(fused.o.ranks, fused.down.ranks)), e);
  rows.Add("backward.act", 1, f, e);
  rows.Add("backward.h", 1, d, e);
  rows.Add("backward.attn", 1, m.q_size(), e);
  rows.Add("backward.qkv", 1, fused.qkv.out + SpareColumns(fused.qkv.ranks), e);
  if (in.lora_dropout) {
    int64_t widest = 0;  // input of an adapted linear
    for (const Fused& linear : fused.all()) widest = std::max(widest, linear.ranks > 0 ? linear.in : 0);
    rows.Add("lora_dropped", 1, widest, e);
  }
  rows.Add("tokens", 1, 4, 4);  // ids, positions, rows and labels of targets
}

// Of the backward of flash attention (kernels/varlen_attention.h); cuDNN's is smaller.
int64_t AttentionWorkspace(const PlanInput& in) {
  const format::ModelConfig& m = in.model;
  const int64_t documents = in.tokens() / in.max_seq_length;
  const int64_t rows = in.tokens() + 128 * documents, head = (m.head_dim + 31) / 32 * 32;
  const int64_t grouped = m.num_key_value_heads < m.num_attention_heads ? 2 : 0;
  return rows * m.num_attention_heads * (head + 1) * 4 +
         in.tokens() * in.compute_bytes * ((1 + grouped) * m.q_size() + 2 * m.kv_size());
}

}  // namespace

void AddActivations(const PlanInput& in, Collector& c) {
  const FusedLinears fused(in);
  const Rows rows(in.tokens(), c);
  AddShared(in, fused, rows);
  AddKept(in, fused, rows);
  if (in.on_gpu) c.Add("activations", "attention_workspace", AttentionWorkspace(in));
}

}  // namespace finetuned::plan
