#include "engine/format/families/gguf_keys.h"

#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace finetuned::format {

std::optional<int64_t> GgufKeys::Int(absl::string_view key) { return Keep(metadata_.Int(Full(key))); }
std::optional<double> GgufKeys::Number(absl::string_view key) { return Keep(metadata_.Number(Full(key))); }
std::optional<bool> GgufKeys::Bool(absl::string_view key) { return Keep(metadata_.Bool(Full(key))); }
std::optional<std::string> GgufKeys::String(absl::string_view key) { return Keep(metadata_.String(Full(key))); }

std::optional<std::vector<std::string>> GgufKeys::Strings(absl::string_view key) {
  return Keep(metadata_.Strings(Full(key)));
}

std::optional<std::vector<float>> GgufKeys::Floats(absl::string_view key) { return Keep(metadata_.Floats(Full(key))); }
std::optional<std::vector<int32_t>> GgufKeys::Ints(absl::string_view key) { return Keep(metadata_.Ints(Full(key))); }

int64_t GgufKeys::RequiredInt(absl::string_view key) {
  const std::optional<int64_t> value = Int(key);
  if (!value) Invalid(key, "is missing");
  return value.value_or(0);
}

std::optional<int32_t> GgufKeys::TokenId(absl::string_view key) {
  const std::optional<int64_t> value = Int(key);
  if (!value) return std::nullopt;
  if (*value < 0 || *value > std::numeric_limits<int32_t>::max()) {
    Invalid(key, absl::StrCat(": expected a token id, found ", *value));
    return std::nullopt;
  }
  return static_cast<int32_t>(*value);
}

void GgufKeys::Unsupported(absl::string_view key, absl::string_view text) {
  Fail(absl::UnimplementedError(Message(key, text)));
}

void GgufKeys::Invalid(absl::string_view key, absl::string_view text) {
  Fail(absl::InvalidArgumentError(Message(key, text)));
}

void GgufKeys::InvalidTensor(absl::string_view tensor, absl::string_view text) {
  Fail(absl::InvalidArgumentError(absl::StrCat(name_, ": tensor ", tensor, ": ", text)));
}

std::string GgufKeys::Full(absl::string_view key) const {
  return absl::StartsWith(key, ".") ? absl::StrCat(architecture_, key) : std::string(key);
}

std::string GgufKeys::Message(absl::string_view key, absl::string_view text) const {
  return absl::StrCat(name_, ": metadata ", Full(key), " ", text);
}

void GgufKeys::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

}  // namespace finetuned::format
