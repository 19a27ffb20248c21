// Vocabularies embedded in GGUF files.

#include <algorithm>

#include "absl/status/status.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/gguf_family.h"
#include "engine/text/regex.h"

namespace finetuned::text {
namespace {

using nlohmann::json;

// ggml token types.
constexpr int32_t kControl = 3, kUserDefined = 4;

constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

json SplitThenBytes(const char* pattern) {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
}

}  // namespace

GgufFamily FindGgufFamily(const std::string& pre) {
  const auto any = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return pre == n; });
  };
  if (any({"smollm", "starcoder", "refact", "command-r", "codeshell"})) {
    return {{{"type", "Sequence"},
             {"pretokenizers",
              {{{"type", "Digits"}, {"individual_digits", true}},
               {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}}}},
            /*nfc=*/pre == "command-r"};
  }
  if (any({"default", "gpt-2", "phi-2", "jina-es", "jina-de", "mpt", "olmo", ""})) {
    return {{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}};
  }
  if (any({"llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"})) return {SplitThenBytes(kLlama3), false, true};
  if (any({"qwen2", "deepseek-r1-qwen", "megrez"})) return {SplitThenBytes(kQwen2), true, false};
  if (any({"tekken"})) return {SplitThenBytes(kTekken), false, true};
  if (any({"gpt-4o", "llama4"})) return {SplitThenBytes(kGpt4o), false, false};
  if (any({"dbrx", "stablelm2"})) return {SplitThenBytes(kLlama3), false, false};
  throw TokenizerError{true, "tokenizer.ggml.pre \"" + pre + "\" is not supported (known: default, gpt-2, smollm, "
                             "llama-bpe, qwen2, tekken, command-r, gpt-4o and their kin); use the Hugging Face folder of this model"};
}

namespace {

BpeModel ByteLevelModel(const GgufVocabulary& v, bool ignore_merges) {
  BpeModel model;
  for (size_t i = 0; i < v.tokens.size(); ++i) model.vocabulary.emplace(v.tokens[i], static_cast<int32_t>(i));
  for (size_t i = 0; i < v.merges.size(); ++i) {
    const size_t space = v.merges[i].find(' ', 1);  // a token may begin with a space, none is empty
    if (space == std::string::npos) {
      throw TokenizerError{false, "tokenizer.ggml.merges[" + std::to_string(i) + "] must be \"left right\""};
    }
    model.merges.emplace_back(v.merges[i].substr(0, space), v.merges[i].substr(space + 1));
  }
  model.ignore_merges = ignore_merges;
  return model;
}

}  // namespace

// SentencePiece stores scores, not merges: every split of a piece into two known pieces is a merge, ranked
// by the piece's score.
BpeModel SentencePieceModel(const GgufVocabulary& v) {
  if (v.scores.size() != v.tokens.size()) {
    throw TokenizerError{false, "tokenizer.ggml.scores must hold one score per token"};
  }
  BpeModel model;
  for (size_t i = 0; i < v.tokens.size(); ++i) model.vocabulary.emplace(v.tokens[i], static_cast<int32_t>(i));
  struct Scored {
    float score;
    size_t left_id, right_id;
    std::string left, right;
  };
  std::vector<Scored> merges;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const std::string& token = v.tokens[id];
    std::vector<Scored> local;
    for (size_t i = 1; i < token.size(); ++i) {
      if ((static_cast<unsigned char>(token[i]) & 0xC0) == 0x80) continue;
      const auto left = model.vocabulary.find(token.substr(0, i));
      const auto right = model.vocabulary.find(token.substr(i));
      if (left == model.vocabulary.end() || right == model.vocabulary.end()) continue;
      local.push_back({v.scores[id], static_cast<size_t>(left->second), static_cast<size_t>(right->second),
                       left->first, right->first});
    }
    std::stable_sort(local.begin(), local.end(), [](const Scored& a, const Scored& b) {
      return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
    });
    std::move(local.begin(), local.end(), std::back_inserter(merges));
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Scored& a, const Scored& b) { return a.score > b.score; });
  for (Scored& m : merges) model.merges.emplace_back(std::move(m.left), std::move(m.right));
  model.byte_fallback = true;
  model.fuse_unknown = true;
  if (v.unk.has_value() && *v.unk >= 0 && static_cast<size_t>(*v.unk) < v.tokens.size()) {
    model.unknown = v.tokens[static_cast<size_t>(*v.unk)];
  }
  return model;
}

json SentencePieceNormalizer(bool add_space_prefix) {
  json steps = json::array();
  if (add_space_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}});
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

json SentencePieceDecoder(bool add_space_prefix) {
  json decoders = {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (add_space_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", decoders}};
}

namespace {

void SentencePieceParts(const GgufVocabulary& v, TokenizerParts* parts) {
  parts->model = SentencePieceModel(v);
  const bool add_space = v.add_space_prefix.value_or(true);
  parts->normalizer = MakeNormalizer(SentencePieceNormalizer(add_space));
  parts->pre_tokenizer = MakePreTokenizer(json());
  parts->decoder = MakeDecoder(SentencePieceDecoder(add_space));
}

void ByteLevelParts(const GgufVocabulary& v, TokenizerParts* parts) {
  const GgufFamily family = FindGgufFamily(v.pre);
  parts->model = ByteLevelModel(v, family.ignore_merges);
  parts->normalizer = MakeNormalizer(family.nfc ? json{{"type", "NFC"}} : json());
  parts->pre_tokenizer = MakePreTokenizer(family.pre_tokenizer);
  parts->decoder = MakeDecoder({{"type", "ByteLevel"}});
}

TokenizerParts ReadParts(const GgufVocabulary& v) {
  if (v.tokens.empty()) throw TokenizerError{false, "tokenizer.ggml.tokens is empty"};
  if (!v.types.empty() && v.types.size() != v.tokens.size()) {
    throw TokenizerError{false, "tokenizer.ggml.token_type must hold one type per token"};
  }
  TokenizerParts parts;
  if (v.model == "gpt2") {
    ByteLevelParts(v, &parts);
  } else if (v.model == "llama") {
    SentencePieceParts(v, &parts);
  } else {
    throw TokenizerError{true, "tokenizer.ggml.model \"" + v.model + "\" is not supported (known: gpt2, llama)"};
  }
  for (size_t i = 0; i < v.types.size(); ++i) {
    if (v.types[i] != kControl && v.types[i] != kUserDefined) continue;
    AddedToken t;
    t.content = v.tokens[i];
    t.id = static_cast<int32_t>(i);
    t.special = v.types[i] == kControl;
    parts.raw_added.push_back(std::move(t));
  }
  const auto checked = [&](std::optional<int32_t> id, const char* what) {
    if (id.has_value() && (*id < 0 || static_cast<size_t>(*id) >= v.tokens.size())) {
      throw TokenizerError{false, std::string(what) + " " + std::to_string(*id) + " is outside of the vocabulary"};
    }
    return id;
  };
  parts.bos = checked(v.bos, "tokenizer.ggml.bos_token_id");
  parts.eos = checked(v.eos, "tokenizer.ggml.eos_token_id");
  parts.pad = checked(v.pad, "tokenizer.ggml.padding_token_id");
  parts.unk = checked(v.unk, "tokenizer.ggml.unknown_token_id");
  const bool bos_by_default = v.model == "llama";
  if (v.add_bos.value_or(bos_by_default) && parts.bos.has_value()) parts.prefix.push_back(*parts.bos);
  if (v.add_eos.value_or(false) && parts.eos.has_value()) parts.suffix.push_back(*parts.eos);
  return parts;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromGguf(const GgufVocabulary& vocabulary) {
  try {
    return MakeTokenizer(ReadParts(vocabulary));
  } catch (const TokenizerError& e) {
    return e.unsupported ? absl::UnimplementedError(e.message) : absl::InvalidArgumentError(e.message);
  } catch (const nlohmann::json::exception& e) {
    return absl::InternalError(e.what());
  }
}

}  // namespace finetuned::text
