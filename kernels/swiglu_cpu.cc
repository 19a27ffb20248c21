// Truth of SwiGLU. Legend: T tokens, F intermediate size.
#include <ATen/Parallel.h>

#include "kernels/cpu_math.h"
#include "kernels/swiglu_params.h"

namespace finetuned::kernels {
namespace {

int64_t RowsPerTask(int64_t F) { return 1 + 16384 / F; }

// Value and derivative of the gate's activation.
template <typename R>
struct Activated {
  R value, slope;
};

template <typename R, bool kGelu>
Activated<R> Activate(R x) {
  if constexpr (kGelu) {
    // 0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3); 0.5 (1 + tanh(u)) = sigmoid(2 u).
    const R root = R(0.79788456080286535588), cubic = R(0.044715);
    const R s = Sigmoid(R(2) * root * (x + cubic * x * x * x));
    return {x * s, s + R(2) * x * s * (R(1) - s) * root * (R(1) + R(3) * cubic * x * x)};
  } else {
    const R s = Sigmoid(x);
    const R silu = x * s;
    return {silu, s + silu * (R(1) - s)};
  }
}

template <typename R, bool kGelu>
void Forward(const SwigluForwardParams& p) {
  at::parallel_for(0, p.T, RowsPerTask(p.F), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const R* gate = static_cast<const R*>(p.gate_up) + t * p.gate_up_stride;
      const R* up = gate + p.F;
      R* h = static_cast<R*>(p.h) + t * p.h_stride;
#pragma omp simd
      for (int64_t f = 0; f < p.F; ++f) h[f] = Activate<R, kGelu>(gate[f]).value * up[f];
    }
  });
}

// Each element is read before it is written, so outputs may be the memory of inputs.
template <typename R, bool kGelu, bool kWithH>
void BackwardRow(const R* dh, const R* gate, const R* up, R* dgate, R* dup, R* h, int64_t F) {
#pragma omp simd
  for (int64_t f = 0; f < F; ++f) {
    const R g = gate[f], u = up[f], d = dh[f];
    const Activated<R> a = Activate<R, kGelu>(g);
    dgate[f] = d * u * a.slope;
    dup[f] = d * a.value;
    if constexpr (kWithH) h[f] = a.value * u;
  }
}

template <typename R, bool kGelu>
void Backward(const SwigluBackwardParams& p) {
  at::parallel_for(0, p.T, RowsPerTask(p.F), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const R* gate = static_cast<const R*>(p.gate_up) + t * p.gate_up_stride;
      const R* dh = static_cast<const R*>(p.dh) + t * p.F;
      R* dgate = static_cast<R*>(p.d_gate_up) + t * p.d_gate_up_stride;
      if (p.h) {
        R* h = static_cast<R*>(p.h) + t * p.F;
        BackwardRow<R, kGelu, true>(dh, gate, gate + p.F, dgate, dgate + p.F, h, p.F);
      } else {
        BackwardRow<R, kGelu, false>(dh, gate, gate + p.F, dgate, dgate + p.F, nullptr, p.F);
      }
    }
  });
}

}  // namespace

void SwigluForwardCpu(const SwigluForwardParams& p, Dtype dtype) {
  if (p.gelu) return dtype == Dtype::kFloat64 ? Forward<double, true>(p) : Forward<float, true>(p);
  dtype == Dtype::kFloat64 ? Forward<double, false>(p) : Forward<float, false>(p);
}

void SwigluBackwardCpu(const SwigluBackwardParams& p, Dtype dtype) {
  if (p.gelu) return dtype == Dtype::kFloat64 ? Backward<double, true>(p) : Backward<float, true>(p);
  dtype == Dtype::kFloat64 ? Backward<double, false>(p) : Backward<float, false>(p);
}

}  // namespace finetuned::kernels
