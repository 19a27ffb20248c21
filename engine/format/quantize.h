#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

// Rounded to nearest, ties to even; beyond the type's range infinity; a NaN stays one.
uint16_t FloatToHalf(float value);
uint16_t FloatToBFloat16(float value);

// Whether EncodeFromF32 knows the encoding: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.
bool IsEncodable(DType dtype);

// Encodes in.size() numbers into `bytes` (little endian), the inverse of DecodeToF32. Bit-equal to
// gguf.quants.quantize of the PyPI package gguf and, for the K types, which it lacks, to the reference functions
// quantize_row_q*_K_ref of llama.cpp's ggml-quants.c (scales searched for the least weighted error, no importance
// matrix). INVALID_ARGUMENT when the sizes disagree, the type is not encodable, or a number is not finite.
absl::Status EncodeFromF32(DType dtype, std::span<const float> in, std::span<uint8_t> bytes);

}  // namespace finetuned::format
