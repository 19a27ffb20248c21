#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

// Free of LibTorch.
namespace finetuned::generate {

// Turns the tokens of one answer into text as they come. Text is held back while the next token may still change it (a
// character whose bytes are not complete) or while it may be the beginning of a stop string.
class TextStream {
 public:
  // `tokenizer` must outlive the stream. Special tokens give no text.
  TextStream(const text::Tokenizer* tokenizer, std::vector<std::string> stop);

  // What is certain now beyond what was given before. After a stop string: the text before it, and stopped().
  std::string Add(int32_t token);
  // The rest, when the answer ends for another reason.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  std::string Certain();

  const text::Tokenizer* const tokenizer_;
  const std::vector<std::string> stop_;
  std::vector<int32_t> ids_;
  // Tokens [begin_, shown_) have given their text; decoding starts at begin_, so that what a token's text owes to
  // its neighbour (a space between words) comes out right.
  size_t begin_ = 0, shown_ = 0;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace finetuned::generate
