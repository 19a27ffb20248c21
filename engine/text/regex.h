#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/text/tokenizer.h"

struct pcre2_real_code_8;

namespace finetuned::text {

// Thrown inside the tokenizer for a description that cannot be used or a pattern that hits its limit;
// turned into a status at the tokenizer's border.
struct TokenizerError {
  bool unsupported = false;
  std::string message;
};

// A compiled pattern (PCRE2 with JIT, UTF and Unicode properties). Matching is thread safe.
class Regex {
 public:
  explicit Regex(const std::string& pattern);  // throws TokenizerError
  // First match at or after `at`. Throws TokenizerError when PCRE2's match limit is hit.
  bool Find(std::string_view text, size_t at, ByteRange* match) const;

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace finetuned::text
