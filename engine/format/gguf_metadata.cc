#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/format/gguf_reader.h"

namespace finetuned::format {
namespace {

template <typename T>
T Load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

absl::string_view TypeName(GgufType type) {
  constexpr absl::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                          "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<uint32_t>(type)];
}

// nullopt for other types and for u64 beyond int64_t.
std::optional<int64_t> ToInt(GgufType type, const uint8_t* p) {
  switch (type) {
    case GgufType::kU8:
      return Load<uint8_t>(p);
    case GgufType::kI8:
      return Load<int8_t>(p);
    case GgufType::kU16:
      return Load<uint16_t>(p);
    case GgufType::kI16:
      return Load<int16_t>(p);
    case GgufType::kU32:
      return Load<uint32_t>(p);
    case GgufType::kI32:
      return Load<int32_t>(p);
    case GgufType::kI64:
      return Load<int64_t>(p);
    case GgufType::kU64: {
      const uint64_t value = Load<uint64_t>(p);
      if (value > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

bool GgufMetadata::Insert(std::string key, GgufValue value) {
  return values_.emplace(std::move(key), value).second;
}

const GgufValue* GgufMetadata::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::Status GgufMetadata::WrongType(absl::string_view key, absl::string_view expected,
                                     const GgufValue& found) const {
  std::string type(TypeName(found.type));
  if (found.type == GgufType::kArray) {
    type = absl::StrCat("array of ", found.count, " ", TypeName(found.element));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ": metadata ", key, ": expected ", expected, ", found ", type));
}

absl::StatusOr<std::optional<int64_t>> GgufMetadata::Int(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = ToInt(value->type, value->bytes.data());
  if (!number) return WrongType(key, "an integer below 2^63", *value);
  return number;
}

absl::StatusOr<std::optional<double>> GgufMetadata::Number(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type == GgufType::kF32) return Load<float>(value->bytes.data());
  if (value->type == GgufType::kF64) return Load<double>(value->bytes.data());
  const std::optional<int64_t> number = ToInt(value->type, value->bytes.data());
  if (!number) return WrongType(key, "a number", *value);
  return static_cast<double>(*number);
}

absl::StatusOr<std::optional<bool>> GgufMetadata::Bool(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kBool) return WrongType(key, "a bool", *value);
  return value->bytes[0] != 0;
}

absl::StatusOr<std::optional<std::string>> GgufMetadata::String(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kString) return WrongType(key, "a string", *value);
  return std::string(value->bytes.begin(), value->bytes.end());
}

absl::StatusOr<std::optional<std::vector<std::string>>> GgufMetadata::Strings(
    absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kArray || value->element != GgufType::kString) {
    return WrongType(key, "an array of strings", *value);
  }
  std::vector<std::string> strings;
  strings.reserve(value->count);
  const uint8_t* p = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) {
    const uint64_t length = Load<uint64_t>(p);
    strings.emplace_back(reinterpret_cast<const char*>(p) + 8, length);
    p += 8 + length;
  }
  return strings;
}

absl::StatusOr<std::optional<std::vector<float>>> GgufMetadata::Floats(
    absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kArray || value->element != GgufType::kF32) {
    return WrongType(key, "an array of f32", *value);
  }
  std::vector<float> floats(value->count);
  if (!floats.empty()) std::memcpy(floats.data(), value->bytes.data(), value->bytes.size());
  return floats;
}

absl::StatusOr<std::optional<std::vector<int32_t>>> GgufMetadata::Ints(
    absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kArray) return WrongType(key, "an array of integers", *value);
  std::vector<int32_t> ints;
  const size_t width = value->count == 0 ? 0 : value->bytes.size() / value->count;
  for (uint64_t i = 0; i < value->count; ++i) {
    const std::optional<int64_t> number = ToInt(value->element, value->bytes.data() + i * width);
    if (!number || *number != static_cast<int32_t>(*number)) {
      return WrongType(key, "an array of integers of 32 bits", *value);
    }
    ints.push_back(static_cast<int32_t>(*number));
  }
  return ints;
}

}  // namespace finetuned::format
