#include "engine/export/hf_texts.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/mapped_file.h"
#include "engine/format/rope.h"
#include "engine/format/strict_json.h"
#include "engine/text/gguf_tokenizer_json.h"

namespace finetuned::exports {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxTextBytes = 256 << 20;

// Beside config.json; those that are there are copied.
constexpr const char* kCopied[] = {"generation_config.json", "tokenizer.json",    "tokenizer_config.json",
                                   "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                   "tokenizer.model",         "vocab.json",        "merges.txt"};

const char* TorchName(format::DType dtype) {
  if (dtype == format::DType::kF32) return "float32";
  return dtype == format::DType::kF16 ? "float16" : "bfloat16";
}

absl::StatusOr<HfTexts> CopiedTexts(const format::ModelSource& base, const std::string& folder, format::DType dtype) {
  const auto config_text = format::ReadSmallFile(folder + "/config.json", kMaxTextBytes);
  if (!config_text.ok()) return config_text.status();
  ordered_json config = ordered_json::parse(*config_text, nullptr, false);
  if (!config.is_object()) return absl::InvalidArgumentError(absl::StrCat(format::DisplayName(folder), "/config.json: expected an object"));
  config.erase("quantization_config");
  config["tie_word_embeddings"] = base.config().tie_word_embeddings;
  config.erase(config.contains("dtype") ? "torch_dtype" : "dtype");
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = TorchName(dtype);
  HfTexts texts = {{"config.json", config.dump(2) + "\n"}};
  for (const char* name : kCopied) {
    if (!std::filesystem::exists(folder + "/" + name)) continue;
    auto text = format::ReadSmallFile(folder + "/" + name, kMaxTextBytes);
    if (!text.ok()) return text.status();
    texts[name] = *std::move(text);
  }
  return texts;
}

// GGUF keeps llama3 scaling as divisors of the frequencies. All Llama 3 models share its other parameters, and the
// original context is a power of two: what gives the same frequencies is found by trying.
std::optional<format::RopeScaling> Llama3ScalingOf(const format::ModelConfig& config) {
  const std::vector<float>& divisors = config.rope_scaling.divisors;
  const std::vector<double> wanted = format::InverseFrequencies(config);
  format::ModelConfig guess = config;
  for (int64_t context = 32; context <= 1 << 20; context *= 2) {
    guess.rope_scaling = {};
    guess.rope_scaling.type = format::RopeScaling::Type::kLlama3;
    guess.rope_scaling.factor = *std::max_element(divisors.begin(), divisors.end());
    guess.rope_scaling.original_max_position_embeddings = context;
    const std::vector<double> made = format::InverseFrequencies(guess);
    const bool equal = std::equal(wanted.begin(), wanted.end(), made.begin(),
                                  [](double a, double b) { return std::fabs(b / a - 1) < 1e-5; });
    if (equal) return guess.rope_scaling;
  }
  return std::nullopt;
}

absl::StatusOr<ordered_json> RopeScalingJson(const format::ModelConfig& config) {
  const format::RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == format::RopeScaling::Type::kNone) return ordered_json();
  if (scaling.type == format::RopeScaling::Type::kLinear) {
    return ordered_json{{"rope_type", "linear"}, {"factor", scaling.factor}};
  }
  const std::optional<format::RopeScaling> found =
      scaling.type == format::RopeScaling::Type::kDivisors ? Llama3ScalingOf(config) : scaling;
  if (!found) {
    return absl::UnimplementedError(
        "rope_freqs.weight of the GGUF base is not the scaling of Llama 3, which alone can be written to config.json; use "
        "the model's Hugging Face folder as base");
  }
  return ordered_json{{"rope_type", "llama3"},
                      {"factor", found->factor},
                      {"low_freq_factor", found->low_freq_factor},
                      {"high_freq_factor", found->high_freq_factor},
                      {"original_max_position_embeddings", found->original_max_position_embeddings}};
}

absl::StatusOr<ordered_json> ConfigJson(const format::ModelConfig& c, format::DType dtype) {
  ordered_json j = {{"architectures", ordered_json::array({"LlamaForCausalLM"})},
                    {"attention_bias", c.attention_bias},
                    {"attention_dropout", 0.0},
                    {"bos_token_id", nullptr},
                    {"eos_token_id", nullptr},
                    {"head_dim", c.head_dim},
                    {"hidden_act", "silu"},
                    {"hidden_size", c.hidden_size},
                    {"initializer_range", 0.02},
                    {"intermediate_size", c.intermediate_size},
                    {"max_position_embeddings", c.max_position_embeddings},
                    {"mlp_bias", c.mlp_bias},
                    {"model_type", "llama"},
                    {"num_attention_heads", c.num_attention_heads},
                    {"num_hidden_layers", c.num_hidden_layers},
                    {"num_key_value_heads", c.num_key_value_heads},
                    // GGUF holds a float32; its shortest decimal form is what the model's author wrote.
                    {"rms_norm_eps", std::stod(absl::StrCat(static_cast<float>(c.rms_norm_eps)))},
                    {"rope_scaling", nullptr},
                    {"rope_theta", c.rope_theta},
                    {"tie_word_embeddings", c.tie_word_embeddings},
                    {"torch_dtype", TorchName(dtype)},
                    {"use_cache", true},
                    {"vocab_size", c.vocab_size}};
  if (c.bos_token_id) j["bos_token_id"] = *c.bos_token_id;
  if (c.eos_token_ids.size() == 1) j["eos_token_id"] = c.eos_token_ids[0];
  if (c.eos_token_ids.size() > 1) j["eos_token_id"] = c.eos_token_ids;
  absl::StatusOr<ordered_json> scaling = RopeScalingJson(c);
  if (!scaling.ok()) return scaling.status();
  j["rope_scaling"] = *std::move(scaling);
  return j;
}

absl::StatusOr<HfTexts> TextsOfGguf(const format::ModelSource& base, const std::string& path, format::DType dtype) {
  const auto file = format::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto gguf = format::ParseGguf((*file)->bytes(), (*file)->name());
  if (!gguf.ok()) return gguf.status();
  const auto architecture = gguf->metadata.String("general.architecture");
  if (!architecture.ok()) return architecture.status();
  if (architecture->value_or("") != "llama") {
    return absl::UnimplementedError(absl::StrCat(
        (*file)->name(), ": a Hugging Face folder can be made of GGUF files of architecture llama only, found ",
        architecture->value_or("none"), "; use the model's Hugging Face folder as base, or export to gguf"));
  }
  const auto vocabulary = format::ReadGgufVocabulary(gguf->metadata, (*file)->name());
  if (!vocabulary.ok()) return vocabulary.status();
  const auto tokenizer = text::TokenizerJsonOfGguf(*vocabulary, base.chat_template());
  if (!tokenizer.ok()) return tokenizer.status();
  const auto config = ConfigJson(base.config(), dtype);
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
