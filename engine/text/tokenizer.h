#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace finetuned::text {

// Half-open byte range [begin, end) of a UTF-8 text.
struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

// One token and the bytes of the original text it stands for.
struct Token {
  int32_t id = 0;
  ByteRange bytes;
};

// Vocabulary embedded in a GGUF file (keys tokenizer.ggml.*), as plain data.
struct GgufVocabulary {
  std::string model;  // "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
  std::string pre;    // pre-tokenizer name: "smollm", "llama-bpe", "qwen2", "default", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;       // empty or one per token
  std::vector<int32_t> types;      // ggml token types; 3 = control, 4 = user defined, 6 = byte
  std::vector<std::string> merges; // "left right"
  std::optional<int32_t> bos, eos, unk, pad;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

struct EncodeOptions {
  // Add what the post-processor adds (BOS and the like). Chat templates write their own: false.
  bool add_special_tokens = false;
  // Bytes in which control tokens must not be recognised: text typed by a user. Sorted, disjoint.
  std::span<const ByteRange> literal = {};
};

// A byte-pair-encoding tokenizer, equal to Hugging Face `tokenizers` token for token.
// Immutable after construction; every method may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Text must be valid UTF-8, else INVALID_ARGUMENT with the byte offset.
  virtual absl::StatusOr<std::vector<Token>> Encode(std::string_view text,
                                                    const EncodeOptions& options = {}) const = 0;
  // Ids out of range are skipped. Invalid byte sequences decode as the reference does.
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const = 0;

  virtual int32_t vocabulary_size() const = 0;  // highest id + 1, added tokens included
  virtual std::string IdToToken(int32_t id) const = 0;
  virtual std::optional<int32_t> TokenToId(std::string_view token) const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
  virtual std::optional<int32_t> pad() const = 0;
  virtual std::optional<int32_t> unk() const = 0;
};

// From the bytes of tokenizer.json, and of tokenizer_config.json for bos/eos/pad/unk (may be empty).
// INVALID_ARGUMENT names the JSON path; UNIMPLEMENTED names an unsupported model or component.
absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromJson(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json = {});

absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromGguf(const GgufVocabulary& vocabulary);

}  // namespace finetuned::text
