// Choice of the next token of each sequence from its logits.
// Legend: B rows of a step, V vocabulary, S sequence slots, W = ceil(V / 32).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace finetuned::kernels {

// Parameters of a slot; a uint8 tensor [S, sizeof(SamplingRow)] holds them on the device.
struct SamplingRow {
  uint64_t seed = 0;
  uint32_t sample = 0;            // stream of random numbers of the sequence
  int32_t prompt_tokens = 0;      // the answer's first token has this position
  float inverse_temperature = 1;  // 0: greedy
  float top_p = 1;                // 1: all
  float log_min_p = 0;            // logarithm of min_p, < 0; 0: all are kept (min_p 0)
  float penalty = 1;              // repetition penalty; 1: off
  int32_t top_k = 0;              // 0: all
  int32_t reserved = 0;
};

// What the op reads and advances, by slot.
struct SamplingState {
  at::Tensor tokens_S;     // int32: last token of the sequence; written
  at::Tensor positions_S;  // int32: its position; plus one
  at::Tensor seen_SW;      // int32: bit v % 32 of word v / 32: v is in prompt or answer; the new token's is set
  at::Tensor params_SP;    // uint8 [S, sizeof(SamplingRow)]
};

// For each row b with slot s = slots_B[b], x = logits of the row:
//   y = x, for seen v x < 0 ? x * penalty : x / penalty; y *= inverse_temperature
//   kept: the top_k largest y and ties with the last; of those the largest whose larger ones sum to less than top_p
//     of the whole of softmax(y), ties together; of those y - max y >= log_min_p.
//   token: the kept v with the largest y - log(E_v), E_v = -log(1 - w_v), w_v = (word v % 4 of Philox4x32-10(counter =
//     {v / 4, sample << 32 | t}, key = seed) + 1/2) * 2^-32, t = position + 1 - prompt_tokens: exact sampling from
//     the softmax of the kept (Gumbel's maximum). Greedy: the largest y, the first of equals.
//   log-probability: of the token under softmax(x * inverse_temperature), greedy softmax(x).
// logits_BV: float32, contiguous. out_2B: int32 [2, B], row 0 the tokens, row 1 the bits of the float32
// log-probabilities. Slots of one call must differ, but for rows whose results nobody reads.
// Shares of top_p are summed as integers of 2^-40, so the order of summation does not matter.
void SampleTokens(const at::Tensor& logits_BV, const at::Tensor& slots_B, SamplingState& state,
                  at::Tensor& out_2B);

}  // namespace finetuned::kernels
