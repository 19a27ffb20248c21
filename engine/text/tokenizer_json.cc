// tokenizer.json of Hugging Face.

#include "absl/status/status.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/regex.h"

namespace finetuned::text {
namespace {

using nlohmann::json;


void ReadAddedTokens(const json& root, TokenizerParts* parts) {
  if (!root.contains("added_tokens")) return;
  size_t index = 0;
  for (const json& j : root["added_tokens"]) {
    AddedToken t;
    t.content = j.at("content");
    const int64_t id = j.at("id");
    if (id < 0 || id >= kMaxTokenId) {
      throw TokenizerError{false, "added_tokens[" + std::to_string(index) + "].id " + std::to_string(id) +
                                      " is out of range"};
    }
    t.id = static_cast<int32_t>(id);
    t.lstrip = j.value("lstrip", false);
    t.rstrip = j.value("rstrip", false);
    t.single_word = j.value("single_word", false);
    t.special = j.value("special", false);
    (j.value("normalized", false) ? parts->normalized_added : parts->raw_added).push_back(t);
    ++index;
  }
}

// Ids that the post-processor puts before and after a single text.
void ReadPostProcessor(const json& j, TokenizerParts* parts) {
  if (j.is_null()) return;
  const std::string type = j.at("type");
  if (type == "Sequence") {
    for (const json& part : j.at("processors")) ReadPostProcessor(part, parts);
  } else if (type == "TemplateProcessing") {
    bool after = false;
    for (const json& item : j.at("single")) {
      if (item.contains("Sequence")) {
        after = true;
      } else {
        const std::string name = item.at("SpecialToken").at("id");
        for (const json& id : j.at("special_tokens").at(name).at("ids")) {
          (after ? parts->suffix : parts->prefix).push_back(id);
        }
      }
    }
  } else if (type != "ByteLevel") {  // ByteLevel only trims offsets
    throw TokenizerError{true, "post_processor " + type + " is not supported (known: Sequence, TemplateProcessing, "
                               "ByteLevel)"};
  }
}

// "bos_token": "<s>" or {"content": "<s>", ...}.
std::optional<int32_t> NamedToken(const json& config, const char* key, const Tokenizer& tokenizer) {
  if (!config.contains(key)) return std::nullopt;
  const json& value = config[key];
  if (value.is_string()) return tokenizer.TokenToId(value.get<std::string>());
  if (value.is_object() && value.contains("content")) return tokenizer.TokenToId(value["content"].get<std::string>());
  return std::nullopt;
}

TokenizerParts ReadParts(const json& root) {
  TokenizerParts parts;
  if (!root.is_object()) throw TokenizerError{false, "the file must be a JSON object"};
  parts.model = ParseBpeModel(root.at("model"));
  parts.normalizer = MakeNormalizer(root.value("normalizer", json()));
  parts.pre_tokenizer = MakePreTokenizer(root.value("pre_tokenizer", json()));
  parts.decoder = MakeDecoder(root.value("decoder", json()));
  ReadAddedTokens(root, &parts);
  ReadPostProcessor(root.value("post_processor", json()), &parts);
  return parts;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromJson(std::string_view tokenizer_json,
                                                                   std::string_view tokenizer_config_json) {
  try {
    TokenizerParts parts = ReadParts(json::parse(tokenizer_json));
    const std::shared_ptr<const Tokenizer> plain = MakeTokenizer(parts);
    if (tokenizer_config_json.empty()) return plain;
    const json config = json::parse(tokenizer_config_json);
    parts.bos = NamedToken(config, "bos_token", *plain);
    parts.eos = NamedToken(config, "eos_token", *plain);
    parts.pad = NamedToken(config, "pad_token", *plain);
    parts.unk = NamedToken(config, "unk_token", *plain);
    return MakeTokenizer(std::move(parts));
  } catch (const TokenizerError& e) {
    const std::string message = "tokenizer.json: " + e.message;
    return e.unsupported ? absl::UnimplementedError(message) : absl::InvalidArgumentError(message);
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(std::string("tokenizer.json: ") + e.what());
  }
}

}  // namespace finetuned::text
