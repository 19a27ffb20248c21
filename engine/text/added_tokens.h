#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace finetuned::text {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool lstrip = false;       // takes white space before it
  bool rstrip = false;       // takes white space after it
  bool single_word = false;  // only between characters that are no word characters
  bool special = false;      // a control token
};

// Finds added tokens in a text: the leftmost, then the longest.
class AddedTokens {
 public:
  void Add(AddedToken token);
  // First token at or after `at`. A control token whose text lies inside one `literal` range is passed
  // over. `match` includes stripped white space, but nothing before `at`.
  const AddedToken* Find(std::string_view text, size_t at, std::span<const ByteRange> literal,
                         ByteRange* match) const;

 private:
  struct Node {
    std::map<unsigned char, int> next;
    int token = -1;
  };
  const AddedToken* LongestAt(std::string_view text, size_t at, std::span<const ByteRange> literal,
                              size_t* end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> trie_{1};
  std::array<bool, 256> starts_{};
};

}  // namespace finetuned::text
