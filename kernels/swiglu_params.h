// Plain parameters of the SwiGLU kernels. Legend: T tokens, F intermediate size.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct SwigluForwardParams {
  const void* gate_up;  // [T, 2F], gate first
  void* h;              // [T, F]
  int64_t gate_up_stride;  // elements from row to row
  int64_t h_stride;
  int64_t T;
  int64_t F;
  bool gelu;  // in its tanh approximation; otherwise silu
};

struct SwigluBackwardParams {
  const void* dh;       // [T, F]
  const void* gate_up;  // [T, 2F]
  void* d_gate_up;      // [T, 2F]; may be gate_up
  void* h;              // [T, F] or null; may be dh
  int64_t gate_up_stride;
  int64_t d_gate_up_stride;
  int64_t T;
  int64_t F;
  bool gelu;  // in its tanh approximation; otherwise silu
};

void SwigluForwardCpu(const SwigluForwardParams& p, Dtype dtype);
void SwigluBackwardCpu(const SwigluBackwardParams& p, Dtype dtype);
void SwigluForwardCuda(const SwigluForwardParams& p, Dtype dtype, CudaStream stream);
void SwigluBackwardCuda(const SwigluBackwardParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
