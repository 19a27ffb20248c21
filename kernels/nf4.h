// 4-bit storage of frozen weights, bit-equal to bitsandbytes quantize_4bit / dequantize_4bit(blocksize=64) of its CPU
// backend (0.50), with and without double quantization (compress_statistics): NormalFloat ("nf4"), and, with another
// table of 16 values, "fp4".
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finetuned::kernels {

inline constexpr int64_t kNf4Block = 64;         // weights per absmax
inline constexpr int64_t kNf4NestedBlock = 256;  // absmax values per absmax2

// Which 16 values the codes stand for.
enum class FourBitType { kNf4, kFp4 };

// All tensors contiguous, 1-D, on one device. n = product of shape, B = ceil(n / 64).
struct Nf4Tensor {
  at::Tensor codes;       // uint8 [(n+1)/2]; element 2i in the high nibble, 2i+1 in the low one
  at::Tensor absmax_q;    // uint8 [B], nested only: index into nested_map
  at::Tensor absmax2;     // float32 [ceil(B/256)], nested only
  at::Tensor absmax;      // float32 [B], not nested only
  at::Tensor code_map;    // float32 [16]
  at::Tensor nested_map;  // float32 [256], nested only
  float offset = 0;       // nested: absmax = nested_map[absmax_q] * absmax2 + offset
  std::vector<int64_t> shape;  // of the weight
  bool nested = false;
};

// w: float32, float16 or bfloat16, contiguous, finite. The result is on w's device. On CUDA the
// call waits for the device once when double_quant is set (the offset is a mean taken on the host).
// Second quantization as the oracle's CPU backend: absmax - offset is rounded to one of 65536
// equidistant values before the nearest map entry is taken (bitsandbytes' CUDA backend skips that
// rounding; a few codes next to a midpoint differ by one).
Nf4Tensor Nf4Quantize(const at::Tensor& w, bool double_quant, FourBitType type = FourBitType::kNf4);

// Rows [first, first + count) of a matrix whose double quantization allows it, as views. REQUIRES: first is a multiple of
// Nf4RowStep: there scales begin anew.
int64_t Nf4RowStep(int64_t columns);
Nf4Tensor Nf4Rows(const Nf4Tensor& q, int64_t first, int64_t count);

// out: float32 or bfloat16, n elements, written; contiguous, or a matrix whose rows lie further apart than
// their length. No host sync.
void Nf4Dequantize(const Nf4Tensor& q, at::Tensor& out);

}  // namespace finetuned::kernels
