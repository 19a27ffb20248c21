// Shared by the kernel tests: inputs, error measures, and composed LibTorch versions of the ops
// that serve as oracle (in float64, with autograd) and as the "plain bfloat16 computation" whose
// loss sets the tolerance on the GPU.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace finetuned::kernels {

// Standard normal float64 on the CPU, rounded to dtype's precision, a function of seed alone.
at::Tensor Normal(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kDouble);

// A tensor that reads NaN (0xff for bytes) until it is written.
at::Tensor Poisoned(at::IntArrayRef shape, at::TensorOptions options);

// max |a - b| over max |b|, in float64; infinite when a holds NaN where b does not.
double RelativeError(const at::Tensor& a, const at::Tensor& b);

// Fails unless the error of ours is at most twice that of plain, plus floor, both relative to the
// largest |truth|.
void ExpectWithin(const std::string& what, const at::Tensor& ours, const at::Tensor& plain,
                  const at::Tensor& truth, double floor);

// The floor for results of a dtype: half a bfloat16 step, or float32 noise of long sums.
double Floor(at::ScalarType dtype);

bool SameBits(const at::Tensor& a, const at::Tensor& b);

// Composed oracles. All follow transformers' Llama in x's dtype.
at::Tensor RmsNormOracle(const at::Tensor& x_TD, const at::Tensor& w_D, double eps);
at::Tensor RopeOracle(const at::Tensor& x_THE, const at::Tensor& position_ids_T,
                      const at::Tensor& inv_freq, int sign);
at::Tensor SwigluOracle(const at::Tensor& gate_up_T2F);
at::Tensor AttentionOracle(const at::Tensor& q_THE, const at::Tensor& k_TKE,
                           const at::Tensor& v_TKE, const std::vector<int32_t>& cu_seqlens,
                           double scale);

at::Tensor LlamaInvFreq(int64_t E);
// Positions 0, 1, ... per document.
at::Tensor Positions(const std::vector<int32_t>& cu_seqlens);

// A matrix like `x` whose rows lie `spare` elements further apart; the spare columns hold what the memory did.
inline at::Tensor Spread(const at::Tensor& x, int64_t spare) {
  at::Tensor wide = at::full({x.size(0), x.size(1) + spare}, 7, x.options());
  wide.narrow(1, 0, x.size(1)).copy_(x);
  return wide.narrow(1, 0, x.size(1));
}

}  // namespace finetuned::kernels
