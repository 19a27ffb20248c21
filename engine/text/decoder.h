#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace finetuned::text {

// Turns token texts into the pieces of the decoded text.
using Decoder = std::function<void(std::vector<std::string>*)>;

// From the "decoder" of tokenizer.json; null joins the tokens with spaces. Throws TokenizerError.
Decoder MakeDecoder(const nlohmann::json& description, int depth = 0);

}  // namespace finetuned::text
