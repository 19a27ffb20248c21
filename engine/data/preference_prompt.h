#pragma once

#include "engine/text/chat_template.h"

namespace finetuned::data {

// The row {prompt, chosen, rejected, ...} that a row with chosen and rejected alone stands for:
// what both answers begin with is the prompt, message by message, or character by character (as
// TRL's extract_prompt: of two strings one of which begins the other, the last common character
// belongs to the answers, and so does a space before the first difference). REQUIRES: both are
// strings or both are lists.
text::Json WithExplicitPrompt(const text::Json& row);

}  // namespace finetuned::data
