#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace finetuned::text {

// Insertion order of keys is kept: tojson must print objects as Python does.
using Json = nlohmann::ordered_json;

struct RenderLimits {
  int64_t max_steps = 10'000'000;
  int max_depth = 200;
  size_t max_output_bytes = 64u << 20;
};

struct RenderInput {
  Json messages;              // list of objects
  Json tools;                 // list or null
  Json documents;             // list or null
  Json extra = Json::object();  // chat_template_kwargs: more variables
  bool add_generation_prompt = false;
  std::string bos_token, eos_token, pad_token, unk_token;
  int64_t now_unix_seconds = 0;  // what strftime_now formats (UTC)
};

// Fills bos_token, eos_token, pad_token and unk_token; empty where the tokenizer has none.
void SetSpecialTokens(const Tokenizer& tokenizer, RenderInput* input);

struct Rendered {
  std::string text;                     // UTF-8
  std::vector<ByteRange> generation;    // text inside {% generation %} blocks, in order
  std::vector<ByteRange> from_user;     // bytes that came from messages/tools/documents/extra
};

// A chat template (the Jinja subset Hugging Face tokenizers use). Immutable, thread safe.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // INVALID_ARGUMENT with the template line for errors raised by the template or by evaluation;
  // RESOURCE_EXHAUSTED when a limit is hit.
  virtual absl::StatusOr<Rendered> Render(const RenderInput& input,
                                          const RenderLimits& limits = {}) const = 0;
  virtual bool has_generation_blocks() const = 0;
};

// INVALID_ARGUMENT with line and column for a syntax error or an unsupported construct.
absl::StatusOr<std::shared_ptr<const ChatTemplate>> ParseChatTemplate(std::string_view source);

// The training variant (with {% generation %} markers) of a known template, by exact text as TRL
// does, or empty when the template is not known.
std::string_view KnownTrainingTemplate(std::string_view source);

}  // namespace finetuned::text
