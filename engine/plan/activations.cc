#include <algorithm>
#include <bit>

#include "engine/plan/collector.h"
#include "engine/plan/linears.h"
#include "engine/plan/low_rank.h"
#include "kernels/attention_scores.h"

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

// How many layers keep what, and how many rows they work on at a time (model::Keep).
struct Kept {
  int64_t attention;          // copies of q, k, v and attention's output: of layers that keep it, and one for the others
  int64_t all;                // copies of everything else, of all rows
  int64_t pieces;             // and of a piece
  int64_t piece_rows;

  explicit Kept(const PlanInput& in) {
    const int64_t layers = in.model.num_hidden_layers, tokens = in.tokens();
    if (in.method == Method::kEvaluate) {
      attention = pieces = 1, all = 0, piece_rows = tokens;
      return;
    }
    const int64_t rows = in.piece_rows > 0 ? in.piece_rows : LayerPieceRows(in.model.intermediate_size);
    all = in.activation_checkpointing ? std::min(layers, in.keep_all_layers) : layers;
    const int64_t with_attention = std::min(layers - all, in.keep_attention_layers);
    attention = all + with_attention + (all + with_attention < layers ? 1 : 0);
    pieces = all < layers ? 1 : 0;
    piece_rows = std::min(rows, tokens);
  }
  // Of buffers that all layers share.
  int64_t shared_rows(int64_t tokens) const { return all > 0 ? tokens : piece_rows; }
};

// What a layer's forward leaves for its backward.
void AddKept(const PlanInput& in, const FusedLinears& fused, const Kept& kept, Collector& c) {
  const format::ModelConfig& m = in.model;
  const int64_t d = m.hidden_size, f = m.intermediate_size, e = in.compute_bytes;
  const Rows rows(in.tokens(), c);
  rows.Add("layer.qkv", kept.attention, fused.qkv.out, e);
  if (m.qk_norm != format::QkNorm::kNone) rows.Add("layer.qk", kept.attention, m.q_size() + m.kv_size(), e);
  rows.Add("layer.attn", kept.attention, m.q_size() + SpareColumns(fused.o.ranks), e);
  rows.Add("layer.lse", kept.attention, m.num_attention_heads, 4);
  const auto rest = [&](const Rows& some, int64_t copies) {
    some.Add("layer.h1", copies, d + SpareColumns(fused.qkv.ranks), e);
    some.Add("layer.mid", copies, d, e);
    some.Add("layer.h2", copies, d + SpareColumns(fused.gate_up.ranks), e);
    some.Add("layer.gate_up", copies, 2 * f + SpareColumns(fused.gate_up.ranks), e);
    some.Add("layer.act", copies, f + SpareColumns(fused.down.ranks), e);
    some.Add("layer.rstd1", copies, 1, 4);
    some.Add("layer.rstd2", copies, 1, 4);
    if (!m.has_post_norms()) return;
    some.Add("layer.attn_out", copies, d, e);
    some.Add("layer.mlp_out", copies, d, e);
    some.Add("layer.rstd3", copies, 1, 4);
    some.Add("layer.rstd4", copies, 1, 4);
  };
  if (kept.all > 0) rest(rows, kept.all);
  if (kept.pieces > 0) rest(Rows(kept.piece_rows, c), kept.pieces);
}

// Where documents share a prompt, attention reads copies of keys and values: at most as many as all documents have
// tokens, with the row of each, and the copies of each row.
void AddSharedPrefixes(const PlanInput& in, Collector& c) {
  if (in.method != Method::kDpo && in.method != Method::kGrpo) return;
  const Rows rows(in.tokens(), c);
  rows.Add("attention.keys", 1, 2 * in.model.kv_size(), in.compute_bytes);
  rows.Add("tokens.keys", 1, 3, 4);
}

void AddDora(const PlanInput& in, const FusedLinears& fused, const Rows& some, Collector& c) {
  int64_t widest = 0, inputs = 0;  // of the adapted linears
  for (const Fused& linear : fused.all()) {
    widest = std::max(widest, linear.ranks > 0 ? linear.out : 0);
    inputs = std::max(inputs, linear.ranks > 0 ? linear.in : 0);
  }
  c.Add("activations", "dora.rows", kDoraRows * inputs * 4);
  if (in.method != Method::kEvaluate) some.Add("dora.gradient", 1, widest, in.compute_bytes);
}

// Shared by all layers.
void AddShared(const PlanInput& in, const FusedLinears& fused, const Kept& kept, Collector& c) {
  const format::ModelConfig& m = in.model;
  const int64_t d = m.hidden_size, f = m.intermediate_size, e = in.compute_bytes;
  const Rows rows(in.tokens(), c), some(kept.shared_rows(in.tokens()), c);
  // Those in host memory take turns in two buffers.
  const bool forward_only = in.method == Method::kEvaluate;
  const bool two_inputs = forward_only || (in.activation_checkpointing && in.activation_offload);
  rows.Add("layer.input", two_inputs ? 2 : m.num_hidden_layers + 1, d, e);
  rows.Add("hidden", 1, d, e);
  rows.Add("hidden.rstd", 1, 1, 4);
  rows.Add("tokens", 1, 4, 4);  // ids, positions, rows and labels of targets
  if (in.use_dora) AddDora(in, fused, some, c);
  if (forward_only) return;
  rows.Add("hidden.gradient", 1, d + SpareColumns(std::max(fused.o.ranks, fused.down.ranks)), e);
  rows.Add("backward.attn", 1, m.q_size(), e);
  rows.Add("backward.qkv", 1, fused.qkv.out + SpareColumns(fused.qkv.ranks), e);
  some.Add("backward.act", 1, f, e);
  some.Add("backward.h", 1, d, e);
  if (m.has_post_norms()) {
    some.Add("backward.added", 1, d + SpareColumns(std::max(fused.o.ranks, fused.down.ranks)), e);
  }
  if (in.lora_dropout) {
    int64_t widest = 0;  // input of an adapted linear
    for (const Fused& linear : fused.all()) widest = std::max(widest, linear.ranks > 0 ? linear.in : 0);
    some.Add("lora_dropped", 1, widest, e);
  }
  if (in.train_embed_tokens) rows.Add("embed.gradient", 1, d, 4);
  AddSharedPrefixes(in, c);
}

// Inputs of products in 8-bit codes, one at a time, and what INT8 products sum up (kernels/codes8.h).
void AddCodes(const PlanInput& in, const FusedLinears& fused, const Kept& kept, Collector& c) {
  int64_t widest = 0, widest_input = 0;
  for (const Fused& linear : fused.all()) {
    widest = std::max({widest, linear.in, linear.out});
    widest_input = std::max(widest_input, linear.in);
  }
  const int64_t rows = std::max<int64_t>(32, kept.shared_rows(in.tokens()));
  // Backward products read what the forward ones write.
  c.Add("activations", "codes8.inputs", rows * (in.method == Method::kEvaluate ? widest_input : widest));
  c.Add("activations", "codes8.scales", rows * 4);
  if (in.precision == MatmulPrecision::kInt8) {
    c.Add("activations", "codes8.sums", std::min(kCodes8SumRows, rows) * widest * 4);
  }
}

// Of the backward of cuDNN's attention, as an H100 asked for it: every document padded as there, float32
// gradients of q, sums of rows, and, where query heads share keys, 16-bit gradients of k and v of every query head.
int64_t CudnnWorkspace(const PlanInput& in) {
  const format::ModelConfig& m = in.model;
  const int64_t documents = in.tokens() / in.max_seq_length;
  const int64_t n = in.max_seq_length, step = 8192;  // RoundUpLength of kernels/varlen_attention_cudnn.cc
  const int64_t length = n <= 2 * step ? static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)))
                                       : (n + step - 1) / step * step;
  const int64_t head = (m.head_dim + 63) / 64 * 64;
  const int64_t shared = m.num_key_value_heads < m.num_attention_heads ? 2 * 2 * head : 0;
  return documents * m.num_attention_heads * length * (4 * head + 4 + shared) + (2 << 20);
}

// Of the backward of flash attention (kernels/varlen_attention.h). Deterministic, it is repeated for as many blocks as
// leave no multiprocessor idle; an H100 has the most.
int64_t FlashWorkspace(const PlanInput& in) {
  constexpr int64_t kMultiprocessors = 132;
  const format::ModelConfig& m = in.model;
  const int64_t documents = in.tokens() / in.max_seq_length;
  const int64_t rows = in.tokens() + 128 * documents, head = (m.head_dim + 31) / 32 * 32;
  const int64_t grouped = m.num_key_value_heads < m.num_attention_heads ? 2 : 0;
  const int64_t blocks = documents * m.num_attention_heads;
  const int64_t splits = in.deterministic ? (kMultiprocessors + blocks - 1) / blocks : 1;
  return rows * m.num_attention_heads * (splits * head + 1) * 4 +
         in.tokens() * in.compute_bytes * ((1 + grouped) * m.q_size() + 2 * m.kv_size());
}

bool AllHaveWindows(const format::ModelConfig& m) {
  return std::all_of(m.layer_kinds.begin(), m.layer_kinds.end(), [](const auto& kind) { return kind.window > 0; });
}

// Of attention composed of products (kernels/varlen_attention.h): temporaries of some rows, keys and values of every
// query head, and float32 gradients of keys and values.
int64_t ComposedWorkspace(const PlanInput& in) {
  const format::ModelConfig& m = in.model;
  const int64_t length = std::min(in.max_seq_length, in.tokens());
  const int64_t rows = kernels::ComposedRows(m.num_attention_heads, length);
  return kernels::kComposedCopies * m.num_attention_heads * rows * length * 4 +
         2 * m.q_size() * (length + rows) * 4 + 2 * in.tokens() * m.kv_size() * 4;
}

}  // namespace

int64_t LayerPieceRows(int64_t intermediate_size) {
  const int64_t rows = 2048 * int64_t{14336} / std::max<int64_t>(1, intermediate_size);
  return std::clamp<int64_t>(rows / 128 * 128, 1024, 8192);
}

int64_t PlanHostMemory(const PlanInput& in) {
  if (!in.on_gpu || !in.activation_checkpointing || !in.activation_offload) return 0;
  // The last layer's stays on the device (model::LayerInputs).
  const auto one = static_cast<uint64_t>(in.tokens() * in.model.hidden_size * in.compute_bytes);
  return (in.model.num_hidden_layers - 1) * static_cast<int64_t>(std::bit_ceil(one));
}

void AddInt8Inputs(const PlanInput& in, int64_t some, const std::string& prefix, Collector& c) {
  int64_t inputs = 0, outputs = 0;
  for (const Linear& linear : LayerLinears(in.model)) {
    inputs = std::max(inputs, linear.in);
    outputs = std::max(outputs, linear.out);
  }
  const int64_t rows = std::max<int64_t>(32, some);
  c.Add("activations", prefix + "codes8.inputs", rows * inputs);
  c.Add("activations", prefix + "codes8.scales", rows * 4);
  c.Add("activations", prefix + "codes8.sums", std::min(kCodes8SumRows, rows) * outputs * 4);
  c.Add("activations", prefix + "int8.rest", some * inputs * in.compute_bytes);
  c.Add("activations", prefix + "int8.outliers", some * std::min(kInt8Outliers, inputs) * in.compute_bytes);
}

void AddActivations(const PlanInput& in, Collector& c) {
  const FusedLinears fused(in);
  const Kept kept(in);
  AddShared(in, fused, kept, c);
  AddKept(in, fused, kept, c);
  if (in.precision != MatmulPrecision::kCompute) AddCodes(in, fused, kept, c);
  if (in.int8_products) AddInt8Inputs(in, kept.shared_rows(in.tokens()), "", c);
  if (!in.on_gpu || in.method == Method::kEvaluate) return;
  c.Add("activations", "lora_gradients", LowRankGradientElements(in, kept.shared_rows(in.tokens())) * 4);
  constexpr int64_t kShortest = 1024;  // shorter documents never go to cuDNN
  const bool window_everywhere = !in.model.layer_kinds.empty() && AllHaveWindows(in.model);
  const bool may_use_cudnn = in.device.cudnn_attention && !window_everywhere && !in.deterministic && in.max_seq_length >= kShortest;
  const int64_t cudnn = may_use_cudnn ? CudnnWorkspace(in) : 0;
  const int64_t composed = in.model.attention_softcap > 0 ? ComposedWorkspace(in) : 0;
  c.Add("activations", "attention_workspace", std::max({FlashWorkspace(in), cudnn, composed}));
}

}  // namespace finetuned::plan
