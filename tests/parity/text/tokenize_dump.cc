// Token ids of texts: tokenize_dump TOKENIZER < TEXTS. TOKENIZER: a tokenizer.json or a GGUF file. TEXTS: a JSON list of
// strings. Prints {"ids": [[...]], "texts": [...]}, the latter decoded from the ids again.
#include <iostream>
#include <nlohmann/json.hpp>

#include "engine/format/mapped_file.h"
#include "engine/format/model_source.h"

namespace finetuned {
namespace {

absl::StatusOr<std::shared_ptr<const text::Tokenizer>> Load(const std::string& path) {
  if (path.ends_with(".gguf")) {
    const auto model = format::OpenModel(path);
    if (!model.ok()) return model.status();
    return (*model)->LoadTokenizer();
  }
  const auto json = format::ReadSmallFile(path, 256 << 20);
  if (!json.ok()) return json.status();
  return text::TokenizerFromJson(*json);
}

absl::StatusOr<nlohmann::json> Dump(const std::string& path, const nlohmann::json& texts) {
  const auto tokenizer = Load(path);
  if (!tokenizer.ok()) return tokenizer.status();
  nlohmann::json out = {{"ids", nlohmann::json::array()}, {"texts", nlohmann::json::array()}};
  for (const std::string text : texts) {
    const auto tokens = (*tokenizer)->Encode(text);
    if (!tokens.ok()) return tokens.status();
    std::vector<int32_t> ids;
    for (const text::Token& token : *tokens) ids.push_back(token.id);
    out["texts"].push_back((*tokenizer)->Decode(ids));
    out["ids"].push_back(std::move(ids));
  }
  return out;
}

}  // namespace
}  // namespace finetuned

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_dump TOKENIZER < TEXTS\n";
    return 64;
  }
  const auto out = finetuned::Dump(argv[1], nlohmann::json::parse(std::cin));
  if (!out.ok()) {
    std::cerr << out.status().message() << "\n";
    return 1;
  }
  std::cout << out->dump() << "\n";
  return 0;
}
