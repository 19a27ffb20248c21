#include "engine/export/hf_texts.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/export/hf_config_json.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/hf_config.h"
#include "engine/format/mapped_file.h"
#include "engine/text/gguf_tokenizer_json.h"

namespace finetuned::exports {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxTextBytes = 256 << 20;

// Beside config.json; those that are there are copied.
constexpr const char* kCopied[] = {"generation_config.json", "tokenizer.json",    "tokenizer_config.json",
                                   "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                   "tokenizer.model",         "vocab.json",        "merges.txt"};

absl::StatusOr<HfTexts> CopiedTexts(const format::ModelSource& base, const std::string& folder, format::DType dtype) {
  const auto config_text = format::ReadSmallFile(folder + "/config.json", kMaxTextBytes);
  if (!config_text.ok()) return config_text.status();
  ordered_json config = ordered_json::parse(*config_text, nullptr, false);
  if (!config.is_object()) return absl::InvalidArgumentError(absl::StrCat(format::DisplayName(folder), "/config.json: expected an object"));
  const auto text = format::TextPartOfConfig(nlohmann::json(config), format::DisplayName(folder) + "/config.json");
  if (!text.ok()) return text.status();
  if (text->has_value()) config = ordered_json(**text);
  config.erase("quantization_config");
  config["vocab_size"] = base.config().vocab_size;
  config["tie_word_embeddings"] = base.config().tie_word_embeddings;
  config.erase(config.contains("dtype") ? "torch_dtype" : "dtype");
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = TorchName(dtype);
  HfTexts texts = {{"config.json", config.dump(2) + "\n"}};
  const format::TokenizerTexts* extended = base.extended_tokenizer();
  if (extended != nullptr) {
    texts["tokenizer.json"] = extended->tokenizer_json;
    texts["tokenizer_config.json"] = extended->tokenizer_config_json;
  }
  for (const char* name : kCopied) {
    // The other files of a tokenizer lack its new tokens.
    if (extended != nullptr && !absl::StrContains(name, "generation") && !absl::StrContains(name, "template")) continue;
    if (!std::filesystem::exists(folder + "/" + name)) continue;
    auto text = format::ReadSmallFile(folder + "/" + name, kMaxTextBytes);
    if (!text.ok()) return text.status();
    texts[name] = *std::move(text);
  }
  return texts;
}

absl::StatusOr<HfTexts> TextsOfGguf(const format::ModelSource& base, const std::string& path, format::DType dtype) {
  const auto file = format::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto gguf = format::ParseGguf((*file)->bytes(), (*file)->name());
  if (!gguf.ok()) return gguf.status();
  const auto vocabulary = format::ReadGgufVocabulary(gguf->metadata, (*file)->name());
  if (!vocabulary.ok()) return vocabulary.status();
  auto tokenizer = text::TokenizerJsonOfGguf(*vocabulary, base.chat_template());
  if (!tokenizer.ok()) return tokenizer.status();
  if (const format::TokenizerTexts* extended = base.extended_tokenizer()) {
    *tokenizer = {extended->tokenizer_json, extended->tokenizer_config_json};
  }
  const auto config = HfConfigJson(base.config(), vocabulary->pad, dtype);
  if (!config.ok()) return config.status();
  return HfTexts{{"config.json", config->dump(2) + "\n"},
                 {"tokenizer.json", tokenizer->tokenizer_json},
                 {"tokenizer_config.json", tokenizer->tokenizer_config_json}};
}

}  // namespace

absl::StatusOr<HfTexts> HfTextsOf(const format::ModelSource& base, const std::string& base_path, format::DType dtype) {
  return std::filesystem::is_directory(base_path) ? CopiedTexts(base, base_path, dtype) : TextsOfGguf(base, base_path, dtype);
}

}  // namespace finetuned::exports
