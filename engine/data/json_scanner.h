#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"
#include "engine/text/chat_template.h"

namespace finetuned::data {

// Reads the tokens of one strict JSON text. Methods that return false leave reason() and message()
// set: the code and one sentence with the column.
class JsonScanner {
 public:
  // REQUIRES: valid UTF-8; `text` outlives the scanner.
  explicit JsonScanner(std::string_view text) : text_(text) {}

  void SkipSpace();
  bool AtEnd() const { return position_ >= text_.size(); }
  char Peek() const { return text_[position_]; }  // REQUIRES: !AtEnd()
  // Steps over `c` if it is next.
  bool Accept(char c);
  size_t position() const { return position_; }
  void Rewind(size_t position) { position_ = position; }
  // Of the current position, in characters, from 1.
  size_t Column() const;

  // A string, from its opening to its closing quote. `out` may be null: only checked.
  bool String(std::string* out);
  // true, false, null or a number. `out` may be null. `exact` becomes false for a number that
  // neither a 64-bit integer nor a finite double can hold.
  bool Scalar(text::Json* out, bool* exact);

  // Always false, for `return scanner.Fail(...)`.
  bool Fail(const char* reason, absl::string_view what);
  bool Unexpected(absl::string_view expected);

  const std::string& reason() const { return reason_; }
  const std::string& message() const { return message_; }

 private:
  bool Escape(std::string* out);
  bool UnicodeEscape(std::string* out);
  // The four digits after \u; -1 when they are not there.
  int HexDigits();
  bool Number(text::Json* out, bool* exact);
  size_t SkipDigits();

  std::string_view text_;
  size_t position_ = 0;
  std::string reason_, message_;
};

}  // namespace finetuned::data
