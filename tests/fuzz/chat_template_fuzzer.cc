// A chat template, and behind a zero byte the conversation as JSON.
#include "engine/text/chat_template.h"
#include "fuzzing.h"

namespace {

using namespace finetuned;

constexpr char kMessages[] = R"([{"role": "system", "content": "Be brief."},
  {"role": "user", "content": "1 < 2?"}, {"role": "assistant", "content": "Yes.",
   "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]}])";

void CheckRanges(const std::vector<text::ByteRange>& ranges, size_t size) {
  size_t last = 0;
  for (const text::ByteRange& range : ranges) {
    fuzz::Require(last <= range.begin && range.begin <= range.end && range.end <= size,
                  "ranges are in order and in the text");
    last = range.end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [source, messages] = fuzz::SplitAtZero(fuzz::AsText(data, size));
  const auto chat = text::ParseChatTemplate(source);
  if (!chat.ok()) return 0;
  text::RenderInput input;
  input.messages = text::Json::parse(messages.empty() ? std::string_view(kMessages) : messages, nullptr, false);
  if (input.messages.is_discarded()) return 0;
  input.tools = text::Json::array({{{"name", "f"}}});
  input.extra = {{"enable_thinking", true}};
  input.add_generation_prompt = size % 2 == 0;
  input.bos_token = "<s>";
  input.eos_token = "</s>";
  text::RenderLimits limits;
  limits.max_steps = 20'000;
  limits.max_depth = 50;
  limits.max_output_bytes = 1 << 16;
  const auto rendered = (*chat)->Render(input, limits);
  if (!rendered.ok()) return 0;
  fuzz::Require(rendered->text.size() <= limits.max_output_bytes, "the output keeps its limit");
  CheckRanges(rendered->generation, rendered->text.size());
  CheckRanges(rendered->from_user, rendered->text.size());
  return 0;
}
