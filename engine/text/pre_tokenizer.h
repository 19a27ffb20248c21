#pragma once

#include <functional>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/text/normalizer.h"

namespace finetuned::text {

// A part of the text that is tokenized on its own.
struct Piece {
  MappedText part;
  bool byte_level = false;  // its bytes stand for themselves in the vocabulary's byte alphabet
};

using PreTokenizer = std::function<void(std::vector<Piece>*)>;

// From the "pre_tokenizer" of tokenizer.json. Throws TokenizerError.
PreTokenizer MakePreTokenizer(const nlohmann::json& description, int depth = 0);

}  // namespace finetuned::text
