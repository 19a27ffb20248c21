#pragma once

#include <optional>
#include <string_view>

namespace finetuned::reward {

// The number a text ends with, as graders of GSM8K read answers: the first number after the last
// "####", else the last number of the text. Thousands separators, a leading $ and a trailing % or
// full stop are passed over: "#### 1,234.50" and "so it is $1,234.50." give 1234.5. A minus is a
// sign unless it follows a letter, a digit or a closing bracket: "7-3" ends with 3. Nothing when
// there is no number.
std::optional<double> AnswerNumber(std::string_view text);

}  // namespace finetuned::reward
