#include "engine/format/extended_model.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/format/dequantize.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/mapped_file.h"
#include "engine/format/quantize.h"
#include "engine/format/sha256.h"
#include "engine/text/gguf_tokenizer_json.h"

namespace finetuned::format {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxTokenizerBytes = 256 << 20;
constexpr char kTokenizerFile[] = "tokenizer.json", kConfigFile[] = "tokenizer_config.json";

bool HasRowPerToken(const std::string& tensor) {
  return tensor == "model.embed_tokens.weight" || tensor == "lm_head.weight";
}

absl::StatusOr<TokenizerTexts> TextsOfFolder(const std::string& folder) {
  auto json = ReadSmallFile(folder + "/" + kTokenizerFile, kMaxTokenizerBytes);
  if (!json.ok()) return json.status();
  if (!std::filesystem::exists(folder + "/" + kConfigFile)) return TokenizerTexts{*std::move(json), "{}"};
  auto config = ReadSmallFile(folder + "/" + kConfigFile, kMaxTokenizerBytes);
  if (!config.ok()) return config.status();
  return TokenizerTexts{*std::move(json), *std::move(config)};
}

absl::StatusOr<TokenizerTexts> TextsOf(const ModelSource& base, const std::string& path) {
  if (std::filesystem::is_directory(path)) return TextsOfFolder(path);
  const auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto gguf = ParseGguf((*file)->bytes(), (*file)->name());
  if (!gguf.ok()) return gguf.status();
  const auto vocabulary = ReadGgufVocabulary(gguf->metadata, (*file)->name());
  if (!vocabulary.ok()) return vocabulary.status();
  auto texts = text::TokenizerJsonOfGguf(*vocabulary, base.chat_template());
  if (!texts.ok()) return texts.status();
  return TokenizerTexts{std::move(texts->tokenizer_json), std::move(texts->tokenizer_config_json)};
}

// The tokens as added ones of tokenizer.json, what add_tokens makes of plain texts.
absl::Status AddTokens(const std::vector<std::string>& tokens, int64_t first_id, const text::Tokenizer& tokenizer,
                       TokenizerTexts* texts) {
  ordered_json json = ordered_json::parse(texts->tokenizer_json, nullptr, false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(kTokenizerFile, ": expected an object"));
  if (!json["added_tokens"].is_array()) json["added_tokens"] = ordered_json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool twice = std::find(tokens.begin(), tokens.begin() + static_cast<int64_t>(i), tokens[i]) != tokens.begin() + static_cast<int64_t>(i);
    if (tokens[i].empty() || twice || tokenizer.TokenToId(tokens[i])) {
      const char* why = tokens[i].empty() ? "is empty" : twice ? "is there twice" : "is a token of the base already";
      return absl::InvalidArgumentError(absl::StrCat("lora.new_tokens: \"", absl::Utf8SafeCHexEscape(tokens[i]), "\" ", why));
    }
    json["added_tokens"].push_back({{"id", first_id + static_cast<int64_t>(i)},
                                    {"content", tokens[i]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", true},
                                    {"special", false}});
  }
  texts->tokenizer_json = json.dump();
  return absl::OkStatus();
}

class ExtendedModel : public ModelSource {
 public:
  ExtendedModel(std::shared_ptr<const ModelSource> base, TokenizerTexts texts, std::shared_ptr<const text::Tokenizer> tokenizer)
      : base_(std::move(base)), texts_(std::move(texts)), tokenizer_(std::move(tokenizer)), config_(base_->config()),
        tensors_(base_->tensors()) {
    config_.vocab_size = std::max<int64_t>(config_.vocab_size, tokenizer_->vocabulary_size());
    for (TensorInfo& tensor : tensors_) {
      if (!HasRowPerToken(tensor.name)) continue;
      tensor.bytes = tensor.bytes / tensor.shape[0] * config_.vocab_size;
      tensor.shape[0] = config_.vocab_size;
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* Find(const std::string& name) const override {
    const auto it = std::find_if(tensors_.begin(), tensors_.end(), [&](const TensorInfo& t) { return t.name == name; });
    return it == tensors_.end() ? nullptr : &*it;
  }
  absl::StatusOr<std::span<const uint8_t>> Raw(const TensorInfo& tensor) const override {
    if (!Grows(tensor.name)) return base_->Raw(tensor);
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<uint8_t>& bytes = raw_[tensor.name];
    if (bytes.empty()) {
      std::vector<float> numbers(static_cast<size_t>(*ElementCount(tensor.shape)));
      if (absl::Status s = ReadF32(tensor, numbers); !s.ok()) return s;
      bytes.resize(static_cast<size_t>(tensor.bytes));
      if (absl::Status s = EncodeFromF32(tensor.dtype, numbers, bytes); !s.ok()) return s;
    }
    return std::span<const uint8_t>(bytes);
  }
  absl::Status ReadF32(const TensorInfo& tensor, std::span<float> out) const override {
    if (!Grows(tensor.name)) return base_->ReadF32(tensor, out);
    const TensorInfo& stored = *base_->Find(tensor.name);
    const size_t rows = static_cast<size_t>(stored.shape[0]), columns = static_cast<size_t>(stored.shape[1]);
    if (out.size() != static_cast<size_t>(config_.vocab_size) * columns) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, ": expected room for ",
                                                     static_cast<size_t>(config_.vocab_size) * columns, " numbers, found ", out.size()));
    }
    if (absl::Status s = base_->ReadF32(stored, out.first(rows * columns)); !s.ok()) return s;
    std::vector<double> sums(columns);
    for (size_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < columns; ++i) sums[i] += static_cast<double>(out[row * columns + i]);
    }
    for (size_t i = rows * columns; i < out.size(); ++i) out[i] = static_cast<float>(sums[i % columns] / static_cast<double>(rows));
    return absl::OkStatus();
  }
  const BnbWeight* Packed(const TensorInfo& tensor) const override { return base_->Packed(tensor); }
  absl::StatusOr<std::shared_ptr<const text::Tokenizer>> LoadTokenizer() const override { return tokenizer_; }
  std::string chat_template() const override { return base_->chat_template(); }
  std::string fingerprint() const override {
    Sha256 hash;
    hash.Update(base_->fingerprint());
    hash.Update(texts_.tokenizer_json);
    return hash.FinishHex();
  }
  const TokenizerTexts* extended_tokenizer() const override { return &texts_; }

 private:
  bool Grows(const std::string& tensor) const { return HasRowPerToken(tensor) && config_.vocab_size > base_->config().vocab_size; }

  const std::shared_ptr<const ModelSource> base_;
  const TokenizerTexts texts_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  ModelConfig config_;
  std::vector<TensorInfo> tensors_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<uint8_t>> raw_;  // of tensors that grow, once they are asked for
};

absl::StatusOr<std::shared_ptr<const ModelSource>> Extended(std::shared_ptr<const ModelSource> base, TokenizerTexts texts) {
  auto tokenizer = text::TokenizerFromJson(texts.tokenizer_json, texts.tokenizer_config_json);
  if (!tokenizer.ok()) return tokenizer.status();
  return std::make_shared<ExtendedModel>(std::move(base), std::move(texts), *std::move(tokenizer));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelSource>> WithNewTokens(std::shared_ptr<const ModelSource> base,
                                                                 const std::string& path,
                                                                 const std::vector<std::string>& tokens) {
  const auto tokenizer = base->LoadTokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<TokenizerTexts> texts = TextsOf(*base, path);
  if (!texts.ok()) return texts.status();
  if (absl::Status s = AddTokens(tokens, (*tokenizer)->vocabulary_size(), **tokenizer, &*texts); !s.ok()) return s;
  return Extended(std::move(base), *std::move(texts));
}

absl::StatusOr<std::shared_ptr<const ModelSource>> OpenModelFor(const std::string& path, const std::string& adapter_dir) {
  auto base = OpenModel(path);
  if (!base.ok() || adapter_dir.empty() || !std::filesystem::exists(adapter_dir + "/" + kTokenizerFile)) return base;
  absl::StatusOr<TokenizerTexts> texts = TextsOfFolder(adapter_dir);
  if (!texts.ok()) return texts.status();
  const auto own = (*base)->LoadTokenizer();
  if (!own.ok()) return own.status();
  auto extended = Extended(*base, *std::move(texts));
  if (!extended.ok()) return extended.status();
  const auto tokenizer = (*extended)->LoadTokenizer();
  return (*tokenizer)->vocabulary_size() > (*own)->vocabulary_size() ? extended : base;
}

}  // namespace finetuned::format
