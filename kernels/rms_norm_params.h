// Plain parameters of the RMS norm kernels. Legend: T tokens, D hidden size.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct RmsNormForwardParams {
  const void* x;      // [T, D]
  const void* delta;  // [T, D] or null
  void* sum;          // [T, D], with delta: x + delta, what is normalized; may be x
  const void* w;      // [D]
  void* y;            // [T, D], rows y_stride apart
  int64_t y_stride;
  void* rstd;         // [T] float32; float64 for float64 x
  int64_t T;
  int64_t D;
  double eps;
  bool w_is_float32;  // beside a bfloat16 x
};

struct RmsNormBackwardParams {
  const void* dy;    // [T, D]
  const void* x;     // [T, D]
  const void* w;     // [D]
  const void* rstd;  // [T]
  void* dx;          // [T, D], rows dx_stride apart; may be dy when !accumulate
  int64_t dy_stride;
  int64_t dx_stride;
  int64_t T;
  int64_t D;
  bool accumulate;
  bool w_is_float32;
};

// How the CUDA kernels cover a row.
struct RmsNormTile {
  int threads;  // per row: 32 or 256
  int vectors;  // 16-byte vectors each thread keeps in registers: 1, 2 or 4; 0: scalar, reread
};

// vectors * 16 bytes * threads >= a row. Above 256 threads * 4 vectors, or when rows are not
// 16-byte aligned, the scalar kernel reads the row twice instead (registers are the limit: 4
// vectors of 8 bfloat16 for dy and x are 64 floats).
RmsNormTile ChooseRmsNormTile(int64_t D, int64_t element_bytes, bool aligned);

void RmsNormForwardCpu(const RmsNormForwardParams& p, Dtype dtype);
void RmsNormBackwardCpu(const RmsNormBackwardParams& p, Dtype dtype);
void RmsNormForwardCuda(const RmsNormForwardParams& p, Dtype dtype, CudaStream stream);
void RmsNormBackwardCuda(const RmsNormBackwardParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
