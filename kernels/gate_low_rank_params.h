// Plain parameters of the fused backward of gate and adapters. Legend: T rows, F intermediate size.
#pragma once

#include <cstdint>

#include "kernels/low_rank_gradients_params.h"

namespace finetuned::kernels {

// Columns of the gate, and the same of up, that a block takes at a time, F is a multiple; and in all, at most, one after another.
inline constexpr int kGateColumns = 256;
inline constexpr int kGateGroup = 2 * kGateColumns;

struct GateLowRankParams {
  const void* dh;  // bfloat16 [T, F]
  void* gate_up;   // bfloat16 [T, 2F], rows low_rank.dy_stride apart; becomes low_rank.dy
  int64_t F;
  bool gelu;       // in its tanh approximation; otherwise silu
  LowRankGradientsParams low_rank;  // two parts, gate and up, in groups of kGateGroup columns
};

void GateLowRankCuda(const GateLowRankParams& p, CudaStream stream);

}  // namespace finetuned::kernels
