// What families of models ask of the operations beside what Llama does, composed of LibTorch's: the oracles.
// Legend: T tokens, H heads, K key/value heads, E head size.
#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <vector>

#include "kernels/attention_scores.h"
#include "kernels/head_norm.h"
#include "kernels/rope.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {

inline at::Tensor HeadNormOracle(const at::Tensor& x_THE, const at::Tensor& w, const HeadNormOptions& o) {
  const at::Tensor x = o.center ? x_THE - x_THE.mean({2}, true) : x_THE;
  return x * (x.square().mean({2}, true) + o.eps).rsqrt() * w;
}

// Rotates the first R elements of each head; R / 2 frequencies.
inline at::Tensor RotateOracle(const at::Tensor& x_THE, const at::Tensor& positions_T, const at::Tensor& inv_freq,
                               const RopeOptions& o) {
  const int64_t half = inv_freq.numel(), E = x_THE.size(2);
  const at::Tensor angle = (positions_T.to(at::kFloat).unsqueeze(1) * inv_freq).unsqueeze(1);
  const at::Tensor c = angle.cos().to(x_THE.scalar_type()) * o.magnitude;
  const at::Tensor s = angle.sin().to(x_THE.scalar_type()) * o.magnitude;
  const at::Tensor rotated = x_THE.narrow(2, 0, 2 * half);
  const at::Tensor pairs = o.interleaved ? rotated.unflatten(2, {half, 2}) : rotated.unflatten(2, {2, half}).transpose(2, 3);
  const at::Tensor a = pairs.select(3, 0), b = pairs.select(3, 1);
  const at::Tensor turned = at::stack({a * c - b * s, b * c + a * s}, o.interleaved ? 3 : 2).flatten(2);
  return at::cat({turned, x_THE.narrow(2, 2 * half, E - 2 * half)}, 2);
}

// Softmax attention of each document with a window and a softcap.
inline at::Tensor ScoredAttentionOracle(const at::Tensor& q_THE, const at::Tensor& k_TKE, const at::Tensor& v_TKE,
                                        const std::vector<int32_t>& cu, const ScoreOptions& o) {
  std::vector<at::Tensor> out;
  const int64_t group = q_THE.size(1) / k_TKE.size(1);
  for (size_t n = 0; n + 1 < cu.size(); ++n) {
    const int64_t L = cu[n + 1] - cu[n];
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, cu[n], L).transpose(0, 1); };
    at::Tensor s = at::matmul(rows(q_THE), rows(k_TKE).repeat_interleave(group, 0).transpose(1, 2)) * o.scale;
    if (o.softcap > 0) s = (s / o.softcap).tanh() * o.softcap;
    const at::Tensor i = at::arange(L, q_THE.options().dtype(at::kLong));
    at::Tensor hidden = i.unsqueeze(0) > i.unsqueeze(1);
    if (o.window > 0) hidden = hidden.logical_or(i.unsqueeze(0) <= i.unsqueeze(1) - o.window);
    s = s.masked_fill(hidden, -std::numeric_limits<double>::infinity());
    out.push_back(at::matmul(s.softmax(2), rows(v_TKE).repeat_interleave(group, 0)).transpose(0, 1));
  }
  return at::cat(out);
}

}  // namespace finetuned::kernels
