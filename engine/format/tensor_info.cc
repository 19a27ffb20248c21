#include "engine/format/tensor_info.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::format {
namespace {

struct DTypeTraits {
  const char* name;
  BlockSize block;
};

// Quantized sizes: ggml's block_q4_0 ... block_q6_K.
DTypeTraits TraitsOf(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return {"F64", {1, 8}};
    case DType::kF32:
      return {"F32", {1, 4}};
    case DType::kF16:
      return {"F16", {1, 2}};
    case DType::kBF16:
      return {"BF16", {1, 2}};
    case DType::kI64:
      return {"I64", {1, 8}};
    case DType::kI32:
      return {"I32", {1, 4}};
    case DType::kI16:
      return {"I16", {1, 2}};
    case DType::kI8:
      return {"I8", {1, 1}};
    case DType::kU8:
      return {"U8", {1, 1}};
    case DType::kBool:
      return {"BOOL", {1, 1}};
    case DType::kQ4_0:
      return {"Q4_0", {32, 18}};
    case DType::kQ4_1:
      return {"Q4_1", {32, 20}};
    case DType::kQ5_0:
      return {"Q5_0", {32, 22}};
    case DType::kQ5_1:
      return {"Q5_1", {32, 24}};
    case DType::kQ8_0:
      return {"Q8_0", {32, 34}};
    case DType::kQ4_K:
      return {"Q4_K", {256, 144}};
    case DType::kQ5_K:
      return {"Q5_K", {256, 176}};
    case DType::kQ6_K:
      return {"Q6_K", {256, 210}};
    case DType::kBnb:
      return {"BNB", {1, 1}};
  }
  return {"unknown", {1, 0}};
}

}  // namespace

BlockSize BlockOf(DType dtype) { return TraitsOf(dtype).block; }

const char* DTypeName(DType dtype) { return TraitsOf(dtype).name; }

bool IsWeightType(DType dtype) {
  switch (dtype) {
    case DType::kI64:
    case DType::kI32:
    case DType::kI16:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return false;
    default:
      return true;
  }
}

absl::StatusOr<int64_t> ElementCount(std::span<const int64_t> shape) {
  constexpr int64_t kLimit = int64_t{1} << 62;
  int64_t count = 1;
  for (int64_t size : shape) {
    if (size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ShapeString(shape), " has a negative size"));
    }
    if (__builtin_mul_overflow(count, size, &count) || count > kLimit) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ShapeString(shape), " overflows: more than 2^62 elements"));
    }
  }
  return count;
}

absl::StatusOr<int64_t> StorageBytes(DType dtype, std::span<const int64_t> shape) {
  absl::StatusOr<int64_t> count = ElementCount(shape);
  if (!count.ok()) return count.status();
  const BlockSize block = BlockOf(dtype);
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (row % block.elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(shape), ": rows of ", row,
                                                   " are not a multiple of the ", DTypeName(dtype),
                                                   " block of ", block.elements));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(*count / block.elements, block.bytes, &bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", ShapeString(shape), " overflows: more than 2^63 bytes"));
  }
  return bytes;
}

std::string ShapeString(std::span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape.begin(), shape.end(), ", "), "]");
}

}  // namespace finetuned::format
