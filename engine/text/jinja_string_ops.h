#pragma once

#include <string>
#include <vector>

#include "engine/text/jinja_runtime.h"

// String operations that methods and filters share (jinja_string_methods.cc).
namespace finetuned::text::jinja {

// [begin, end) without the line break; the next line starts at `next`.
struct Line {
  size_t begin, end, next;
};
std::vector<Line> Lines(const std::string& text);  // as str.splitlines

// str.isupper and str.islower.
bool IsCase(const Str& text, CaseMap map);
// Null chars: white space.
Str Strip(const Str& text, const std::string* chars, bool left, bool right);
// At most `most` replacements; all when negative.
Value ReplaceAll(Runtime& runtime, const Str& text, const Str& old, const Str& with, int64_t most);
// str(item) of every item with the separator between them.
Value JoinStrings(Runtime& runtime, const Str& separator, const std::vector<Value>& items);

}  // namespace finetuned::text::jinja
