#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

// Exact; NaN payloads are kept.
float HalfToFloat(uint16_t bits);
float BFloat16ToFloat(uint16_t bits);

// Decodes out.size() numbers from `bytes` (little endian, no alignment needed). Quantized types are
// bit-equal to gguf.quants.dequantize of the PyPI package gguf. F64 is rounded to nearest.
// INVALID_ARGUMENT when the sizes disagree or dtype is not a weight type.
absl::Status DecodeToF32(DType dtype, std::span<const uint8_t> bytes, std::span<float> out);

}  // namespace finetuned::format
