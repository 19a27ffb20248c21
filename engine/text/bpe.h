#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

namespace finetuned::text {

inline constexpr int32_t kMaxTokenId = 1 << 24;  // ids are below

// The byte alphabet of byte-level vocabularies: every byte has a visible character of its own.
const std::array<std::string, 256>& ByteAlphabet();
// Byte a character stands for, or -1.
int ByteOf(uint32_t code_point);

// What a BPE model is made of.
struct BpeModel {
  std::unordered_map<std::string, int32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::string unknown;         // token for characters that are not in the vocabulary; may be empty
  bool byte_fallback = false;  // unknown characters become <0x..> tokens
  bool fuse_unknown = false;
  bool ignore_merges = false;  // a whole word that is a token stays one
};

// From the "model" of tokenizer.json. Throws TokenizerError or nlohmann::json::exception.
BpeModel ParseBpeModel(const nlohmann::json& model);

// Byte-pair encoding of one word: lowest rank first, then leftmost, in O(n log n). Thread safe; results
// of short words are remembered up to a bound.
class Bpe {
 public:
  struct Symbol {
    int32_t id;
    uint32_t bytes;  // of the word
  };

  explicit Bpe(BpeModel model);  // throws TokenizerError
  std::vector<Symbol> Encode(std::string_view word, bool byte_level) const;
  const std::unordered_map<std::string, int32_t>& vocabulary() const { return model_.vocabulary; }
  int32_t Find(const std::string& token) const;  // -1: not there

 private:
  struct Merge {
    int32_t rank, id;
  };
  struct Cache {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<Symbol>> words;
  };

  std::vector<Symbol> Compute(std::string_view word, bool byte_level) const;
  void AppendCharacter(std::string_view character, bool* last_unknown, std::vector<Symbol>* out) const;
  void ApplyMerges(std::vector<Symbol>* symbols) const;

  BpeModel model_;
  int32_t unknown_ = -1;
  std::array<int32_t, 256> byte_token_;   // of the byte alphabet
  std::array<int32_t, 256> fallback_;     // <0x00> ...
  std::unordered_map<uint64_t, Merge> merges_;
  mutable std::array<Cache, 32> caches_;
};

}  // namespace finetuned::text
