#pragma once

#include <cstdint>

#include "engine/format/model_config.h"

// Device memory of generation beside base and adapter. The engine uses the same functions.
namespace finetuned::plan {

inline constexpr int64_t kCacheBlockTokens = 16;

// Keys and values of all layers for `tokens` tokens: whole blocks, and one that rows without a sequence write to.
int64_t KvCacheBytes(const format::ModelConfig& model, int64_t tokens, int64_t compute_bytes);

// Parts of a product's inputs whose sums are made apart, for an NF4 weight [out, in] and few rows.
int64_t StoredProductSplits(int64_t in, int64_t out);

// Parts of a sequence that a GPU attends to apart, when `rows` sequences of `max_tokens` decode together.
int64_t DecodeAttentionSplits(const format::ModelConfig& model, int64_t rows, int64_t max_tokens);
// The most parts of all sequences together of any step of at most `rows`.
int64_t DecodeAttentionParts(const format::ModelConfig& model, int64_t rows, int64_t max_tokens);

}  // namespace finetuned::plan
