#include "engine/reward/number.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace finetuned::reward {
namespace {

constexpr size_t kLongestNumber = 400;  // digits; more are no answer
constexpr std::string_view kMark = "####";
constexpr std::string_view kUnicodeMinus = "\xe2\x88\x92";

bool DigitAt(std::string_view text, size_t i) {
  return i < text.size() && absl::ascii_isdigit(text[i]);
}

// A comma between digits of which exactly three follow it.
bool SeparatesThousands(std::string_view text, size_t i) {
  return text[i] == ',' && DigitAt(text, i + 1) && DigitAt(text, i + 2) && DigitAt(text, i + 3) &&
         !DigitAt(text, i + 4);
}

bool HasSign(std::string_view text, size_t first_digit) {
  size_t i = first_digit;
  if (i > 0 && text[i - 1] == '$') --i;
  size_t before;
  if (i > 0 && text[i - 1] == '-') {
    before = i - 1;
  } else if (i >= 3 && text.substr(i - 3, 3) == kUnicodeMinus) {
    before = i - 3;
  } else {
    return false;
  }
  if (before == 0) return true;
  const char c = text[before - 1];
  return !absl::ascii_isalnum(c) && c != ')' && c != ']';
}

// The number whose first digit (or point) is at *at; moves *at behind it.
std::optional<double> NumberAt(std::string_view text, size_t* at) {
  std::string digits;
  if (HasSign(text, *at)) digits = "-";
  size_t i = *at;
  bool point = false;
  for (; i < text.size(); ++i) {
    if (absl::ascii_isdigit(text[i])) {
      digits += text[i];
    } else if (text[i] == '.' && !point && DigitAt(text, i + 1)) {
      digits += '.';
      point = true;
    } else if (point || !SeparatesThousands(text, i)) {
      break;
    }
  }
  *at = i;
  double value = 0;
  if (digits.size() > kLongestNumber || !absl::SimpleAtod(digits, &value)) return std::nullopt;
  return value;
}

// The first or last number of `text`.
std::optional<double> Scan(std::string_view text, bool first) {
  std::optional<double> found;
  for (size_t i = 0; i < text.size();) {
    if (!DigitAt(text, i) && !(text[i] == '.' && DigitAt(text, i + 1))) {
      ++i;
      continue;
    }
    const std::optional<double> number = NumberAt(text, &i);
    if (number) found = number;
    if (first && found) break;
  }
  return found;
}

}  // namespace

std::optional<double> AnswerNumber(std::string_view text) {
  const size_t mark = text.rfind(kMark);
  if (mark != std::string_view::npos) {
    const std::optional<double> marked = Scan(text.substr(mark + kMark.size()), /*first=*/true);
    if (marked) return marked;
  }
  return Scan(text, /*first=*/false);
}

}  // namespace finetuned::reward
