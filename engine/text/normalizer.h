#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace finetuned::text {

// Text that remembers where each of its bytes came from.
struct MappedText {
  std::string text;
  std::vector<size_t> from;  // byte of the original text, one per byte of `text`

  static MappedText Of(std::string_view original, size_t begin, size_t end);
  MappedText Part(size_t begin, size_t end) const;
};

// Replaces every occurrence of `what`; new bytes come from the first byte replaced.
void ReplaceAll(const std::string& what, const std::string& with, MappedText* text);

using Normalizer = std::function<void(MappedText*)>;

// From the "normalizer" of tokenizer.json. Throws TokenizerError.
Normalizer MakeNormalizer(const nlohmann::json& description, int depth = 0);

}  // namespace finetuned::text
