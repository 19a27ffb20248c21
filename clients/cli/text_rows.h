#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace finetuned::cli {

// A plain text as JSONL rows {"text": ...} of at most 128 KiB, cut at ends of lines; a longer line stays whole. Nothing
// of the text is lost. Throws CommandError when it is empty or not UTF-8; `name` is for the message.
std::string TextAsRows(absl::string_view text, const std::string& name);

}  // namespace finetuned::cli
