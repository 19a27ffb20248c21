#include "engine/plan/generation.h"

#include <algorithm>

#include "engine/plan/collector.h"
#include "engine/plan/head.h"
#include "engine/plan/linears.h"

namespace finetuned::plan {
namespace {

int64_t Blocks(int64_t tokens) { return (tokens + kCacheBlockTokens - 1) / kCacheBlockTokens; }

// What a decode step of `rows` sequences holds beside the cache; names as generate::Generator::Bytes.
void AddDecodeStep(const PlanInput& in, int64_t rows, Collector& c) {
  const format::ModelConfig& m = in.model;
  const FusedLinears fused(in);
  const int64_t d = m.hidden_size, f = m.intermediate_size, e = in.compute_bytes;
  const auto add = [&](const char* name, int64_t columns, int64_t bytes, int64_t copies = 1) {
    c.Add("activations", name, copies * rows * columns * bytes, copies);
  };
  add("decode.layer.input", d, e, 2);
  add("decode.layer.rstd1", 1, 4);
  add("decode.layer.rstd2", 1, 4);
  add("decode.layer.h1", d + SpareColumns(fused.qkv.ranks), e);
  add("decode.layer.qkv", fused.qkv.out, e);
  if (m.qk_norm != format::QkNorm::kNone) add("decode.layer.qk", m.q_size() + m.kv_size(), e);
  add("decode.layer.attn", m.q_size() + SpareColumns(fused.o.ranks), e);
  add("decode.layer.lse", m.num_attention_heads, 4);
  add("decode.layer.mid", d, e);
  add("decode.layer.h2", d + SpareColumns(fused.gate_up.ranks), e);
  add("decode.layer.gate_up", 2 * f + SpareColumns(fused.gate_up.ranks), e);
  add("decode.layer.act", f + SpareColumns(fused.down.ranks), e);
  if (m.has_post_norms()) {
    add("decode.layer.attn_out", d, e);
    add("decode.layer.mlp_out", d, e);
    add("decode.layer.rstd3", 1, 4);
    add("decode.layer.rstd4", 1, 4);
  }
  add("decode.hidden", d, e);
  add("decode.hidden.rstd", 1, 4);
  add("decode.ids", 1, 4);
  add("decode.positions", 1, 4);
  add("decode.logits", m.vocab_size, 4);
  if (in.int8_products) AddInt8Inputs(in, rows, "decode.", c);
  if (!in.on_gpu) return;
  int64_t partial = 0;
  for (const Fused& linear : fused.all()) {
    partial = std::max(partial, StoredProductSplits(linear.in, linear.out) * linear.out);
  }
  if (in.base == BaseFormat::kNf4 || in.base == BaseFormat::kFp4) add("decode.nf4_partial", partial, 4);
  const int64_t parts = DecodeAttentionParts(m, rows, in.rollout.max_tokens);
  c.Add("activations", "decode.attention.parts", parts * m.num_attention_heads * (m.head_dim + 2) * 4);
}

}  // namespace

int64_t KvCacheBytes(const format::ModelConfig& model, int64_t tokens, int64_t compute_bytes) {
  return (Blocks(tokens) + 1) * kCacheBlockTokens * 2 * model.kv_size() * model.num_hidden_layers * compute_bytes;
}

// Blocks of 128 outputs are too few for a GPU when `out` is small: the inputs are then shared out too, in pieces of at
// least 512. 264: two blocks on each multiprocessor of an H100; more than a smaller GPU needs is no loss there.
int64_t StoredProductSplits(int64_t in, int64_t out) {
  const int64_t tiles = (out + 127) / 128;
  return std::clamp<int64_t>(264 / tiles, 1, std::max<int64_t>(1, in / 512));
}

// A block of the kernel serves a row and up to four query heads of one key/value head; two blocks per multiprocessor
// (264 on an H100) hide latency. A part below 64 tokens costs more to merge than it saves.
int64_t DecodeAttentionSplits(const format::ModelConfig& m, int64_t rows, int64_t max_tokens) {
  const int64_t groups = m.num_key_value_heads * ((m.num_attention_heads / m.num_key_value_heads + 3) / 4);
  const int64_t wanted = 264 / std::max<int64_t>(1, rows * groups);
  return std::clamp<int64_t>(std::min(wanted, (max_tokens + 63) / 64), 1, 32);
}

int64_t DecodeAttentionParts(const format::ModelConfig& m, int64_t rows, int64_t max_tokens) {
  int64_t most = 0;
  for (int64_t r = 1; r <= rows; ++r) most = std::max(most, r * DecodeAttentionSplits(m, r, max_tokens));
  return most;
}

void AddGeneration(const PlanInput& in, Collector& c) {
  if (in.rollout.sequences == 0) return;
  const int64_t rows = in.rollout.sequences, slots = rows + 1;
  c.Add("kv_cache", "kv_cache", KvCacheBytes(in.model, rows * in.rollout.max_tokens, in.compute_bytes));
  // Last token, position, sampling parameters, tokens seen, block table, rows of a step, results.
  c.Add("kv_cache", "decode.state",
        slots * (4 + 4 + 40 + (in.model.vocab_size + 31) / 32 * 4 + Blocks(in.rollout.max_tokens) * 4) + rows * 12);
  AddDecodeStep(in, rows, c);
  c.Add("activations", "decode.dequantized_head", HeadScratchElements(in, 0) * in.compute_bytes);
}

}  // namespace finetuned::plan
