#include "engine/text/gguf_tokenizer_json.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/gguf_family.h"
#include "engine/text/regex.h"

namespace finetuned::text {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// ggml token types.
constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

// Fields that tokenizers needs and our readers do not.
json Complete(json component) {
  if (component.value("type", "") == "ByteLevel") component.emplace("trim_offsets", true);
  for (const char* list : {"pretokenizers", "normalizers", "decoders"}) {
    if (!component.contains(list)) continue;
    for (json& item : component[list]) item = Complete(item);
  }
  return component;
}

json AddedTokenList(const GgufVocabulary& v) {
  json added = json::array();
  for (size_t i = 0; i < v.types.size(); ++i) {
    if (v.types[i] != kControl && v.types[i] != kUserDefined) continue;
    added.push_back({{"id", i},
                     {"content", v.tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", v.types[i] == kControl}});
  }
  return added;
}

json Vocabulary(const GgufVocabulary& v) {
  json vocabulary = json::object();
  for (size_t i = 0; i < v.tokens.size(); ++i) vocabulary.emplace(v.tokens[i], i);
  return vocabulary;
}

json BpeJson(const GgufVocabulary& v) {
  return {{"type", "BPE"},          {"dropout", nullptr},       {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},      {"byte_fallback", false},   {"ignore_merges", false},
          {"vocab", Vocabulary(v)}, {"merges", v.merges}};
}

void ByteLevelJson(const GgufVocabulary& v, json* out) {
  const GgufFamily family = FindGgufFamily(v.pre);
  (*out)["model"] = BpeJson(v);
  (*out)["model"]["ignore_merges"] = family.ignore_merges;
  (*out)["normalizer"] = family.nfc ? json{{"type", "NFC"}} : json();
  (*out)["pre_tokenizer"] = Complete(family.pre_tokenizer);
  (*out)["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
}

void SentencePieceJson(const GgufVocabulary& v, json* out) {
  const BpeModel model = SentencePieceModel(v);
  json bpe = BpeJson(v);
  bpe["merges"] = json::array();
  for (const auto& [left, right] : model.merges) bpe["merges"].push_back({left, right});
  bpe["byte_fallback"] = true;
  bpe["fuse_unk"] = true;
  if (!model.unknown.empty()) bpe["unk_token"] = model.unknown;
  (*out)["model"] = std::move(bpe);
  (*out)["normalizer"] = SentencePieceNormalizer(v.add_space_prefix.value_or(true));
  (*out)["pre_tokenizer"] = nullptr;
  (*out)["decoder"] = SentencePieceDecoder(v.add_space_prefix.value_or(true));
}

// The id if its token is put around texts.
std::optional<int32_t> Put(std::optional<bool> asked, bool by_default, std::optional<int32_t> id) {
  return asked.value_or(by_default) ? id : std::nullopt;
}

json PostProcessor(const GgufVocabulary& v) {
  const auto bos = Put(v.add_bos, v.model == "llama", v.bos), eos = Put(v.add_eos, false, v.eos);
  if (!bos && !eos) return nullptr;
  json single = json::array(), pair = json::array(), special = json::object();
  const auto add = [&](int32_t id, json* list, int type) {
    const std::string& token = v.tokens.at(id);
    list->push_back({{"SpecialToken", {{"id", token}, {"type_id", type}}}});
    special[token] = {{"id", token}, {"ids", json::array({id})}, {"tokens", json::array({token})}};
  };
  const auto sequence = [](const char* id, int type) { return json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
  for (json* list : {&single, &pair}) {
    if (bos) add(*bos, list, 0);
    list->push_back(sequence("A", 0));
    if (eos) add(*eos, list, 0);
  }
  if (bos) add(*bos, &pair, 1);
  pair.push_back(sequence("B", 1));
  if (eos) add(*eos, &pair, 1);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

std::string ConfigJson(const GgufVocabulary& v, const std::string& chat_template) {
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto set = [&](const char* key, std::optional<int32_t> id) {
    if (id) config[key] = v.tokens.at(*id);
  };
  set("bos_token", v.bos);
  set("eos_token", v.eos);
  set("unk_token", v.unk);
  set("pad_token", v.pad);
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  return config.dump(2) + "\n";
}

// A pre-tokenizer reduced to what changes how it splits.
json Canonical(const json& component) {
  const std::string type = component.is_object() ? component.value("type", "") : "";
  if (type == "Sequence") {
    json list = json::array();
    for (const json& item : component.value("pretokenizers", json::array())) list.push_back(Canonical(item));
    return list.size() == 1 ? list[0] : list;
  }
  json c = {{"type", type}};
  if (type == "Digits") c["individual_digits"] = component.value("individual_digits", false);
  if (type == "ByteLevel") {
    c["add_prefix_space"] = component.value("add_prefix_space", true);
    c["use_regex"] = component.value("use_regex", true);
  }
  if (type == "Split") {
    for (const char* key : {"pattern", "behavior", "invert"}) c[key] = component.value(key, json());
  }
  return c;
}

absl::StatusOr<std::string> PreName(const json& tokenizer) {
  if (tokenizer.at("model").at("merges").empty()) return "gpt-2";  // single bytes: it does not matter where words end
  const json wanted = Canonical(tokenizer.value("pre_tokenizer", json()));
  const bool nfc = tokenizer.value("normalizer", json()) == json{{"type", "NFC"}};
  const bool ignore_merges = tokenizer.at("model").value("ignore_merges", false);
  for (const char* name : {"smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "dbrx", "command-r", "gpt-4o"}) {
    const GgufFamily family = FindGgufFamily(name);
    if (Canonical(family.pre_tokenizer) == wanted && family.nfc == nfc && family.ignore_merges == ignore_merges) {
      return name;
    }
  }
  return absl::UnimplementedError("tokenizer.json: GGUF has no name known here for pre_tokenizer " + wanted.dump() +
                                  " with this normalizer; use the model's GGUF file as base");
}

// SentencePiece ranks pieces by score: the piece of the first merge is the best.
std::vector<float> ScoresOfMerges(const json& merges, const GgufVocabulary& v, const json& vocabulary) {
  std::vector<float> scores(v.tokens.size(), 0.0f);
  const float none = -static_cast<float>(merges.size() + 1);
  for (const auto& [token, id] : vocabulary.items()) scores.at(id.get<size_t>()) = none;
  std::vector<bool> known(v.tokens.size(), false);
  float score = 0;
  for (const json& merge : merges) {
    std::string piece;
    if (merge.is_array()) {
      piece = merge.at(0).get<std::string>() + merge.at(1).get<std::string>();
    } else {
      piece = merge.get<std::string>();
      piece.erase(piece.find(' ', 1), 1);
    }
    const auto it = vocabulary.find(piece);
    if (it == vocabulary.end() || known[it->get<size_t>()]) continue;
    known[it->get<size_t>()] = true;
    scores[it->get<size_t>()] = score;
    score -= 1;
  }
  return scores;
}

void FillTokens(const json& tokenizer, int64_t size, GgufVocabulary* v) {
  v->tokens.resize(size);
  v->types.assign(size, kUnused);
  const auto set = [&](int64_t id, const std::string& token, int32_t type) {
    if (id < 0 || id >= size) {
      throw TokenizerError{false, "tokenizer.json: token \"" + token + "\" has id " + std::to_string(id) +
                                      ", but the model has " + std::to_string(size) + " embeddings"};
    }
    v->tokens[id] = token;
    v->types[id] = type;
  };
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").items()) {
    const bool byte = v->model == "llama" && token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
    set(id.get<int64_t>(), token, byte ? kByte : kNormal);
  }
  for (const json& added : tokenizer.value("added_tokens", json::array())) {
    set(added.at("id").get<int64_t>(), added.at("content").get<std::string>(),
        added.value("special", false) ? kControl : kUserDefined);
  }
  for (int64_t i = 0; i < size; ++i) {
    if (v->types[i] == kUnused) v->tokens[i] = "[PAD" + std::to_string(i) + "]";
  }
}

void FillSpecial(const Tokenizer& tokenizer, GgufVocabulary* v) {
  v->bos = tokenizer.bos();
  v->eos = tokenizer.eos();
  v->pad = tokenizer.pad();
  v->unk = tokenizer.unk();
  EncodeOptions options;
  options.add_special_tokens = true;
  const auto ids = tokenizer.Encode("a", options);
  v->add_bos = ids.ok() && !ids->empty() && v->bos && ids->front().id == *v->bos;
  v->add_eos = ids.ok() && !ids->empty() && v->eos && ids->back().id == *v->eos;
}

// Whether a text begins as if after a space.
bool PrependsSpace(const json& tokenizer) {
  if (tokenizer.value("normalizer", json()).dump().find("\"Prepend\"") != std::string::npos) return true;
  const json split = tokenizer.value("pre_tokenizer", json());
  return split.is_object() && split.value("type", "") == "Metaspace" && split.value("prepend_scheme", "always") != "never";
}

absl::StatusOr<GgufVocabulary> Convert(const json& tokenizer, const Tokenizer& made, int64_t size) {
  const json& model = tokenizer.at("model");
  GgufVocabulary v;
  v.model = model.value("byte_fallback", false) ? "llama" : "gpt2";
  FillTokens(tokenizer, size, &v);
  FillSpecial(made, &v);
  if (v.model == "llama") {
    v.pre = "default";
    v.scores = ScoresOfMerges(model.at("merges"), v, model.at("vocab"));
    v.add_space_prefix = PrependsSpace(tokenizer);
    if (v.unk) v.types[*v.unk] = kUnknown;
    return v;
  }
  auto pre = PreName(tokenizer);
  if (!pre.ok()) return pre.status();
  v.pre = *std::move(pre);
  for (const json& merge : model.at("merges")) {
    v.merges.push_back(merge.is_array() ? merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>()
                                        : merge.get<std::string>());
  }
  return v;
}

}  // namespace

absl::StatusOr<HfTokenizerTexts> TokenizerJsonOfGguf(const GgufVocabulary& vocabulary,
                                                     const std::string& chat_template) {
  try {
    json out = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
    out["added_tokens"] = AddedTokenList(vocabulary);
    if (vocabulary.model == "gpt2") {
      ByteLevelJson(vocabulary, &out);
    } else if (vocabulary.model == "llama") {
      SentencePieceJson(vocabulary, &out);
    } else {
      throw TokenizerError{true, "tokenizer.ggml.model \"" + vocabulary.model + "\" is not supported (known: gpt2, llama)"};
    }
    out["post_processor"] = PostProcessor(vocabulary);
    return HfTokenizerTexts{out.dump(), ConfigJson(vocabulary, chat_template)};
  } catch (const TokenizerError& e) {
    return e.unsupported ? absl::UnimplementedError(e.message) : absl::InvalidArgumentError(e.message);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(std::string("tokenizer.ggml: ") + e.what());
  }
}

absl::StatusOr<GgufVocabulary> GgufVocabularyOfJson(std::string_view tokenizer_json, const Tokenizer& tokenizer,
                                                    int64_t size) {
  try {
    return Convert(json::parse(tokenizer_json), tokenizer, size);
  } catch (const TokenizerError& e) {
    return e.unsupported ? absl::UnimplementedError(e.message) : absl::InvalidArgumentError(e.message);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(std::string("tokenizer.json: ") + e.what());
  }
}

}  // namespace finetuned::text
