#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/string_view.h"

namespace finetuned::data {

// Debian builds Abseil with a string_view of its own, which StrCat and Status take.
inline absl::string_view ForAbseil(std::string_view text) { return {text.data(), text.size()}; }

// Offset of the first byte that does not begin or continue a well-formed UTF-8 sequence (overlong
// forms, surrogates and code points above U+10FFFF are malformed), or nothing for valid text.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

// `text` for an error message: quoted, control and non-ASCII bytes escaped, cut at `max_bytes`. Raw
// bytes of a data file never reach a terminal.
std::string Quoted(std::string_view text, size_t max_bytes = 40);

// As Quoted, without the quotes: for keys in a JSON path.
std::string Printable(std::string_view text, size_t max_bytes = 40);

// True for an empty text or one of ASCII white space only.
bool IsBlank(std::string_view text);

// Words apart by ASCII white space: a lower bound of the tokens of ordinary text.
int64_t CountWords(std::string_view text);

// The candidate at most two edits away from `word`, or empty. For "did you mean".
std::string NearestName(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace finetuned::data
