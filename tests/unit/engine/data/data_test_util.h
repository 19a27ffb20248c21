#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/data/dataset.h"
#include "engine/text/tokenizer.h"

namespace finetuned::data {

// A file that lives as long as the object.
class TempFile {
 public:
  explicit TempFile(const std::string& content) {
    static int counter = 0;
    path_ = absl::StrCat(testing::TempDir(), "/ft_data_", getpid(), "_", counter++, ".jsonl");
    std::ofstream(path_, std::ios::binary).write(content.data(), content.size());
  }
  ~TempFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

inline std::string SharedData(const std::string& name) {
  return std::string(FINETUNED_SHARED_DATA) + "/" + name;
}

#define SKIP_WITHOUT(path)                                                  \
  do {                                                                      \
    if (!Exists(path)) GTEST_SKIP() << (path) << " is not on this machine"; \
  } while (false)

// A tokenizer simple enough to foresee: a run of letters with the space before it is one token,
// every other byte is one. Knows <s> (added in front as BOS), </s> (EOS), <|im_start|> and
// <|im_end|>.
class FakeTokenizer : public text::Tokenizer {
 public:
  absl::StatusOr<std::vector<text::Token>> Encode(
      std::string_view text, const text::EncodeOptions& options = {}) const override {
    std::vector<text::Token> tokens;
    if (options.add_special_tokens) tokens.push_back({1, {0, 0}});
    for (size_t i = 0; i < text.size();) {
      size_t length = 0;
      int32_t id = SpecialAt(text, i, options, &length);
      if (id == 0) {
        length = text[i] == ' ' && i + 1 < text.size() && isalpha(text[i + 1]) ? 1 : 0;
        while (i + length < text.size() && isalpha(text[i + length])) ++length;
        if (length == 0) length = 1;
        id = WordId(text.substr(i, length));
      }
      tokens.push_back({id, {i, i + length}});
      i += length;
    }
    return tokens;
  }

  static int32_t WordId(std::string_view word) {
    uint32_t hash = 2166136261u;
    for (char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
    return static_cast<int32_t>(100 + hash % 1'000'000);
  }

  std::string Decode(std::span<const int32_t>, bool) const override { return ""; }
  int32_t vocabulary_size() const override { return 1'000'100; }
  std::string IdToToken(int32_t id) const override {
    return id >= 1 && id <= 4 ? std::string(kSpecial[id - 1]) : "?";
  }
  std::optional<int32_t> TokenToId(std::string_view) const override { return std::nullopt; }
  std::optional<int32_t> bos() const override { return 1; }
  std::optional<int32_t> eos() const override { return 2; }
  std::optional<int32_t> pad() const override { return std::nullopt; }
  std::optional<int32_t> unk() const override { return std::nullopt; }

 private:
  static constexpr std::string_view kSpecial[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};

  static int32_t SpecialAt(std::string_view text, size_t i, const text::EncodeOptions& options,
                           size_t* length) {
    for (const text::ByteRange& range : options.literal) {
      if (i >= range.begin && i < range.end) return 0;
    }
    for (int32_t k = 0; k < 4; ++k) {
      if (text.substr(i, kSpecial[k].size()) == kSpecial[k]) {
        *length = kSpecial[k].size();
        return k + 1;
      }
    }
    return 0;
  }
};

// ChatML without and with generation markers.
inline constexpr char kPlainChatMl[] =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
inline constexpr char kMarkedChatMl[] =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

}  // namespace finetuned::data
