#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace finetuned::format {

// How the numbers of a stored tensor are encoded.
enum class DType {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kBnb  // codes of bitsandbytes, meaningless without what belongs to them: bnb_checkpoint.h
};

struct TensorInfo {
  std::string name;  // Hugging Face name, e.g. "model.layers.0.self_attn.q_proj.weight"
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // row-major, Hugging Face order: [out_features, in_features]
  int64_t bytes = 0;
};

// Storage unit of an encoding: `elements` consecutive numbers of a row take `bytes` bytes.
struct BlockSize {
  int64_t elements = 1;
  int64_t bytes = 0;
};
BlockSize BlockOf(DType dtype);

// "F32", "BF16", "Q4_K", ...: the names safetensors and GGUF use.
const char* DTypeName(DType dtype);

// Whether DecodeToF32 (dequantize.h) knows the encoding: every float and quantized type.
bool IsWeightType(DType dtype);

// Product of the shape. INVALID_ARGUMENT for a negative size or when it exceeds 2^62.
absl::StatusOr<int64_t> ElementCount(std::span<const int64_t> shape);

// Bytes of a tensor. INVALID_ARGUMENT when the count overflows or when the last dimension is not
// a whole number of blocks.
absl::StatusOr<int64_t> StorageBytes(DType dtype, std::span<const int64_t> shape);

// "[49152, 576]".
std::string ShapeString(std::span<const int64_t> shape);

}  // namespace finetuned::format
