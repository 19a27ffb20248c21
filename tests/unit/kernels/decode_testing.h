// Inputs of the tests of decoding: a filled cache, rows with sampling parameters, quantized weights.
#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/nf4_gemm.h"
#include "kernels/paged_attention.h"
#include "kernels/sample_tokens.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {

// Sequences of these lengths; their blocks lie in the cache in no order, slots run backwards.
struct PagedFixture {
  int64_t H, K, E;
  std::vector<int64_t> lengths;
  std::vector<int32_t> cu = {0};
  at::Tensor q_THE, k_TKE, v_TKE;  // float64, all tokens of all sequences
  at::Tensor slots_T, positions_T, tables_SM, slots_B, last_S;

  PagedFixture(std::vector<int64_t> sequence_lengths, int64_t heads, int64_t kv_heads, int64_t size,
               at::ScalarType rounding, uint64_t seed)
      : H(heads), K(kv_heads), E(size), lengths(std::move(sequence_lengths)) {
    const int64_t n = static_cast<int64_t>(lengths.size());
    int64_t blocks = 1, most = 1;
    for (int64_t l : lengths) most = std::max(most, (l + kCacheBlock - 1) / kCacheBlock);
    tables_SM = at::full({n, most}, 1 << 20, at::kInt);  // never read where no token is
    std::vector<int32_t> slots, positions;
    slots_B = at::empty({n}, at::kInt);
    last_S = at::empty({n}, at::kInt);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t slot = n - 1 - i, used = (lengths[i] + kCacheBlock - 1) / kCacheBlock;
      for (int64_t b = used - 1; b >= 0; --b) tables_SM[slot][b] = static_cast<int32_t>(blocks++);
      for (int64_t t = 0; t < lengths[i]; ++t) {
        slots.push_back(static_cast<int32_t>(slot));
        positions.push_back(static_cast<int32_t>(t));
      }
      slots_B[i] = static_cast<int32_t>(slot);
      last_S[slot] = static_cast<int32_t>(lengths[i] - 1);
      cu.push_back(cu.back() + static_cast<int32_t>(lengths[i]));
    }
    slots_T = at::tensor(slots, at::kInt);
    positions_T = at::tensor(positions, at::kInt);
    const auto make = [&](int64_t heads_of, uint64_t s) {
      return Normal({cu.back(), heads_of, E}, s).to(rounding).to(at::kDouble);
    };
    q_THE = make(H, seed);
    k_TKE = make(K, seed + 1);
    v_TKE = make(K, seed + 2);
    cache_blocks = blocks;
  }
  int64_t cache_blocks;

  // The op's answer for the last token of each sequence.
  at::Tensor Attend(at::ScalarType dtype, at::Device device, int64_t splits, int64_t window = 0, double softcap = 0) const {
    const auto options = at::TensorOptions().device(device).dtype(dtype);
    PagedCache cache{Poisoned({cache_blocks, K, kCacheBlock, E}, options),
                     Poisoned({cache_blocks, K, kCacheBlock, E}, options)};
    // Views of a fused buffer, as in the engine.
    const at::Tensor fused = at::cat({q_THE, k_TKE, v_TKE}, 1).to(options);
    WritePaged(fused.narrow(1, H, K), fused.narrow(1, H + K, K),
               {slots_T.to(device), positions_T.to(device), tables_SM.to(device), true}, cache);
    const int64_t n = static_cast<int64_t>(lengths.size());
    const at::Tensor q = fused.index_select(0, LastRows().to(device)).narrow(1, 0, H);
    at::Tensor out = Poisoned({n, H, E}, options);
    const at::Tensor scratch =
        Poisoned({PagedAttentionScratch(n, H, E, splits)}, options.dtype(at::kFloat));
    PagedAttention(q, cache, {slots_B.to(device), last_S.to(device), tables_SM.to(device)},
                   {1 / std::sqrt(static_cast<double>(E)), window, softcap}, splits, scratch, out);
    return out.cpu();
  }
  at::Tensor LastRows() const {
    std::vector<int64_t> rows;
    for (size_t i = 1; i < cu.size(); ++i) rows.push_back(cu[i] - 1);
    return at::tensor(rows, at::kLong);
  }
  at::Tensor Truth() const {
    return AttentionOracle(q_THE, k_TKE, v_TKE, cu, 1 / std::sqrt(static_cast<double>(E)))
        .index_select(0, LastRows());
  }
};

// A state of `rows` with positions 10 + slot and the given parameters.
struct SamplingFixture {
  SamplingState state;
  at::Tensor slots_B;
  int64_t V;

  SamplingFixture(const std::vector<SamplingRow>& rows, int64_t vocabulary, at::Device device = at::kCPU)
      : V(vocabulary) {
    const int64_t n = static_cast<int64_t>(rows.size());
    const int64_t bytes = static_cast<int64_t>(sizeof(SamplingRow));
    at::Tensor params = at::empty({n, bytes}, at::kByte);
    std::memcpy(params.data_ptr(), rows.data(), static_cast<size_t>(n * bytes));
    state.params_SP = params.to(device);
    state.tokens_S = at::full({n}, -1, at::kInt).to(device);
    state.positions_S = at::arange(10, 10 + n, at::kInt).to(device);
    state.seen_SW = at::zeros({n, (V + 31) / 32}, at::kInt).to(device);
    slots_B = at::arange(n - 1, -1, -1, at::kInt).to(device);
  }

  void MarkSeen(int64_t slot, int64_t token) {
    at::Tensor word = state.seen_SW[slot][token / 32];
    word.fill_(word.item<int32_t>() | static_cast<int32_t>(1u << (token % 32)));
  }

  // Tokens and log-probabilities, on the CPU; rows of logits are those of slots_B.
  std::pair<at::Tensor, at::Tensor> Sample(const at::Tensor& logits_BV) {
    at::Tensor out = at::zeros({2, slots_B.numel()}, slots_B.options());
    SampleTokens(logits_BV, slots_B, state, out);
    const at::Tensor host = out.cpu();
    return {host[0].clone(), host[1].clone().view(at::kFloat)};
  }
};

// Parts of a weight [sum of rows, in], quantized.
inline std::vector<Nf4Tensor> QuantizedParts(const std::vector<int64_t>& rows, int64_t in, bool nested,
                                             uint64_t seed, at::Device device = at::kCPU) {
  std::vector<Nf4Tensor> parts;
  for (size_t i = 0; i < rows.size(); ++i) {
    parts.push_back(Nf4Quantize((Normal({rows[i], in}, seed + i) * 0.05).to(at::kFloat).to(device), nested));
  }
  return parts;
}

// x W^T + scale * u b^T + bias in float64 from the dequantized weight in `dtype`.
inline at::Tensor ProductTruth(const std::vector<Nf4Tensor>& parts, const at::Tensor& x, const at::Tensor& bias,
                               const LowRankTerm& low, at::ScalarType dtype) {
  std::vector<at::Tensor> weights;
  for (const Nf4Tensor& q : parts) {
    weights.push_back(at::empty({q.shape[0], q.shape[1]}, at::dtype(dtype).device(x.device())));
    Nf4Dequantize(q, weights.back());
  }
  at::Tensor y = at::mm(x.cpu().to(at::kDouble), at::cat(weights).cpu().to(at::kDouble).t());
  int64_t first = 0;
  for (const LowRankPart& part : low.parts) {
    const int64_t rank = part.b_OR.size(1);
    const at::Tensor u = low.u_MG.narrow(1, first, rank).cpu().to(at::kDouble);
    y.narrow(1, part.first_row, part.b_OR.size(0)) += low.scale * at::mm(u, part.b_OR.cpu().to(at::kDouble).t());
    first += rank;
  }
  return bias.defined() ? y + bias.cpu().to(at::kDouble) : y;
}

}  // namespace finetuned::kernels
