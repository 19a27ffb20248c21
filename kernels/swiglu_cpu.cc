// Truth of SwiGLU. Legend: T tokens, F intermediate size.
#include <ATen/Parallel.h>

#include "kernels/cpu_math.h"
#include "kernels/swiglu_params.h"

namespace finetuned::kernels {
namespace {

int64_t RowsPerTask(int64_t F) { return 1 + 16384 / F; }

template <typename R>
void Forward(const SwigluForwardParams& p) {
  at::parallel_for(0, p.T, RowsPerTask(p.F), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const R* gate = static_cast<const R*>(p.gate_up) + t * p.gate_up_stride;
      const R* up = gate + p.F;
      R* h = static_cast<R*>(p.h) + t * p.h_stride;
#pragma omp simd
      for (int64_t f = 0; f < p.F; ++f) h[f] = gate[f] * Sigmoid(gate[f]) * up[f];
    }
  });
}

// Each element is read before it is written, so outputs may be the memory of inputs.
template <typename R, bool kWithH>
void BackwardRow(const R* dh, const R* gate, const R* up, R* dgate, R* dup, R* h, int64_t F) {
#pragma omp simd
  for (int64_t f = 0; f < F; ++f) {
    const R g = gate[f], u = up[f], d = dh[f];
    const R s = Sigmoid(g);
    const R silu = g * s;
    dgate[f] = d * u * (s + silu * (R(1) - s));
    dup[f] = d * silu;
    if constexpr (kWithH) h[f] = silu * u;
  }
}

template <typename R>
void Backward(const SwigluBackwardParams& p) {
  at::parallel_for(0, p.T, RowsPerTask(p.F), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const R* gate = static_cast<const R*>(p.gate_up) + t * p.gate_up_stride;
      const R* dh = static_cast<const R*>(p.dh) + t * p.F;
      R* dgate = static_cast<R*>(p.d_gate_up) + t * p.d_gate_up_stride;
      if (p.h) {
        R* h = static_cast<R*>(p.h) + t * p.F;
        BackwardRow<R, true>(dh, gate, gate + p.F, dgate, dgate + p.F, h, p.F);
      } else {
        BackwardRow<R, false>(dh, gate, gate + p.F, dgate, dgate + p.F, nullptr, p.F);
      }
    }
  });
}

}  // namespace

void SwigluForwardCpu(const SwigluForwardParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Forward<double>(p) : Forward<float>(p);
}

void SwigluBackwardCpu(const SwigluBackwardParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Backward<double>(p) : Backward<float>(p);
}

}  // namespace finetuned::kernels
