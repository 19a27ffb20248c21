// tokenizer.json, and behind a zero byte a text. Without tokenizer.json the text is read by tokenizers of the tests.
#include <array>
#include <memory>
#include <vector>

#include "engine/text/tokenizer.h"
#include "fuzzing.h"

namespace {

using namespace finetuned;
using TokenizerPtr = std::shared_ptr<const text::Tokenizer>;

const std::vector<TokenizerPtr>& Known() {
  static const auto* known = [] {
    auto* made = new std::vector<TokenizerPtr>();
    for (const char* name : {"bytes_gpt2", "spm", "metaspace", "split_regex"}) {
      const std::string json = fuzz::ReadRepositoryFile(std::string("tests/golden/text/") + name + ".tokenizer.json");
      made->push_back(text::TokenizerFromJson(json).value());
    }
    return made;
  }();
  return *known;
}

void Check(const text::Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    text::EncodeOptions options;
    options.add_special_tokens = special;
    const text::ByteRange literal[] = {{text.size() / 3, text.size() / 2}};
    if (special) options.literal = literal;
    const auto tokens = tokenizer.Encode(text, options);
    if (!tokens.ok()) continue;
    std::vector<int32_t> ids;
    for (const text::Token& token : *tokens) {
      fuzz::Require(token.id >= 0 && token.id < tokenizer.vocabulary_size(), "an id is in the vocabulary");
      fuzz::Require(token.bytes.begin <= token.bytes.end && token.bytes.end <= text.size(), "a token lies in the text");
      ids.push_back(token.id);
    }
    (void)tokenizer.Decode(ids);
    (void)tokenizer.Decode(ids, /*skip_special=*/true);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [json, text] = fuzz::SplitAtZero(fuzz::AsText(data, size));
  if (json.empty()) {
    for (const TokenizerPtr& tokenizer : Known()) Check(*tokenizer, text);
    return 0;
  }
  const auto tokenizer = text::TokenizerFromJson(json, "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}}");
  if (!tokenizer.ok()) return 0;
  Check(**tokenizer, text);
  Check(**tokenizer, "<s> Hello, w\xc3\xb6rld!  12345\n\tdon't </s>");
  const std::array<int32_t, 6> odd_ids = {-1, 0, 1, 255, (*tokenizer)->vocabulary_size(), 1 << 30};
  (void)(*tokenizer)->Decode(odd_ids);
  return 0;
}
