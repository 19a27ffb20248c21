#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/regex.h"

#include <pcre2.h>

namespace finetuned::text {

Regex::Regex(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR text[160];
    pcre2_get_error_message(error, text, sizeof text);
    throw TokenizerError{false, "pattern \"" + pattern + "\" at " + std::to_string(offset) + ": " +
                                    reinterpret_cast<char*>(text)};
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT it matches more slowly
  code_ = std::shared_ptr<pcre2_code>(code, pcre2_code_free);
}

bool Regex::Find(std::string_view text, size_t at, ByteRange* match) const {
  // One pair of offsets is all that is asked of any pattern, so the threads need one block each.
  thread_local const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                 PCRE2_NO_UTF_CHECK, data.get(), nullptr);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw TokenizerError{false, "a pre-tokenizer pattern gave up on this text (PCRE2 error " +
                                    std::to_string(result) + ")"};
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
  *match = {offsets[0], offsets[1]};
  return true;
}

}  // namespace finetuned::text
