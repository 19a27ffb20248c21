#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

// Types of GGUF metadata values, numbered as in the file.
enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// One metadata value: its bytes in the file, bounds already checked.
struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  // arrays
  uint64_t count = 0;                // arrays
  std::span<const uint8_t> bytes;    // a string without its length; an array's elements
};

// Typed access to the metadata. Getters answer nullopt when the key is absent and INVALID_ARGUMENT
// naming file, key, expected and found type when it has another type. Any integer type will do
// where an integer that fits is asked for.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  explicit GgufMetadata(std::string file) : file_(std::move(file)) {}

  // False when the key is already there.
  bool Insert(std::string key, GgufValue value);
  const GgufValue* Find(absl::string_view key) const;
  size_t size() const { return values_.size(); }
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }

  absl::StatusOr<std::optional<int64_t>> Int(absl::string_view key) const;
  absl::StatusOr<std::optional<double>> Number(absl::string_view key) const;  // F32, F64, integers
  absl::StatusOr<std::optional<bool>> Bool(absl::string_view key) const;
  absl::StatusOr<std::optional<std::string>> String(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<std::string>>> Strings(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<float>>> Floats(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<int32_t>>> Ints(absl::string_view key) const;

 private:
  absl::Status WrongType(absl::string_view key, absl::string_view expected,
                         const GgufValue& found) const;

  std::string file_;
  std::map<std::string, GgufValue, std::less<>> values_;
};

struct GgufTensor {
  TensorInfo info;     // GGUF name, e.g. "blk.0.attn_q.weight"; shape row-major (reversed dims)
  int64_t offset = 0;  // from the start of the file
};

struct GgufLayout {
  uint32_t version = 0;
  int64_t alignment = 32;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in header order
};

// The encoding with this ggml_type number; nullopt when it is not supported.
std::optional<DType> DTypeOfGgml(uint32_t number);

// Reads the header of a GGUF file of version 2 or 3, little endian. Every count, length, offset and
// alignment is checked against the file before it is used; names are unique, tensors aligned,
// within the file and disjoint. The result points into `file`. INVALID_ARGUMENT names `name`, key
// or tensor, expected, found; UNIMPLEMENTED for other versions and tensor types (listing those
// supported). Source: docs/gguf.md of ggml.
absl::StatusOr<GgufLayout> ParseGguf(std::span<const uint8_t> file, const std::string& name);

}  // namespace finetuned::format
