#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/format/gguf_reader.h"

namespace finetuned::format {

// Reads the metadata of a GGUF file; the first error is kept as status(). A key that starts with '.' belongs to the
// architecture: ".block_count" is "llama.block_count".
class GgufKeys {
 public:
  // `gguf` must outlive this. name: of the file in messages.
  GgufKeys(const GgufMetadata& metadata, std::string name, std::string architecture = "")
      : metadata_(metadata), name_(std::move(name)), architecture_(std::move(architecture)) {}

  const absl::Status& status() const { return status_; }
  const std::string& name() const { return name_; }

  std::optional<int64_t> Int(absl::string_view key);
  std::optional<double> Number(absl::string_view key);
  std::optional<bool> Bool(absl::string_view key);
  std::optional<std::string> String(absl::string_view key);
  std::optional<std::vector<std::string>> Strings(absl::string_view key);
  std::optional<std::vector<float>> Floats(absl::string_view key);
  std::optional<std::vector<int32_t>> Ints(absl::string_view key);
  int64_t RequiredInt(absl::string_view key);
  std::optional<int32_t> TokenId(absl::string_view key);

  // UNIMPLEMENTED, INVALID_ARGUMENT: "name: metadata key text".
  void Unsupported(absl::string_view key, absl::string_view text);
  void Invalid(absl::string_view key, absl::string_view text);
  // INVALID_ARGUMENT: "name: tensor name: text".
  void InvalidTensor(absl::string_view tensor, absl::string_view text);

 private:
  std::string Full(absl::string_view key) const;
  std::string Message(absl::string_view key, absl::string_view text) const;
  void Fail(absl::Status status);
  template <typename T>
  std::optional<T> Keep(absl::StatusOr<std::optional<T>> value) {
    if (value.ok()) return *std::move(value);
    Fail(value.status());
    return std::nullopt;
  }

  const GgufMetadata& metadata_;
  const std::string name_, architecture_;
  absl::Status status_;
};

}  // namespace finetuned::format
