#include "engine/data/preference_prompt.h"

#include <algorithm>
#include <string>

namespace finetuned::data {
namespace {

using text::Json;

bool StartsCharacter(const std::string& text, size_t at) {
  return at >= text.size() || (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
}

// Bytes of the prompt of two strings.
size_t PromptBytes(const std::string& chosen, const std::string& rejected) {
  const size_t limit = std::min(chosen.size(), rejected.size());
  size_t at = std::mismatch(chosen.begin(), chosen.begin() + static_cast<ptrdiff_t>(limit),
                            rejected.begin())
                  .first -
              chosen.begin();
  const bool differs = at < limit;
  while (at > 0 && !(StartsCharacter(chosen, at) && StartsCharacter(rejected, at))) --at;
  if (differs) return at > 0 && chosen[at - 1] == ' ' ? at - 1 : at;
  if (at > 0) --at;
  while (at > 0 && !StartsCharacter(chosen, at)) --at;
  return at;
}

// Messages of the prompt of two lists.
size_t PromptMessages(const Json& chosen, const Json& rejected) {
  const size_t limit = std::min(chosen.size(), rejected.size());
  for (size_t i = 0; i < limit; ++i) {
    if (chosen[i] != rejected[i]) return i;
  }
  return limit > 0 ? limit - 1 : 0;
}

}  // namespace

Json WithExplicitPrompt(const Json& row) {
  Json out = row;
  const Json& chosen = row.at("chosen");
  const Json& rejected = row.at("rejected");
  if (chosen.is_string()) {
    const auto& a = chosen.get_ref<const std::string&>();
    const auto& b = rejected.get_ref<const std::string&>();
    const size_t bytes = PromptBytes(a, b);
    out["prompt"] = a.substr(0, bytes);
    out["chosen"] = a.substr(bytes);
    out["rejected"] = b.substr(bytes);
    return out;
  }
  const auto messages = static_cast<ptrdiff_t>(PromptMessages(chosen, rejected));
  const auto part = [](const Json& list, ptrdiff_t from, ptrdiff_t to) {
    Json messages = Json::array();
    for (ptrdiff_t i = from; i < to; ++i) messages.push_back(list[static_cast<size_t>(i)]);
    return messages;
  };
  out["prompt"] = part(chosen, 0, messages);
  out["chosen"] = part(chosen, messages, static_cast<ptrdiff_t>(chosen.size()));
  out["rejected"] = part(rejected, messages, static_cast<ptrdiff_t>(rejected.size()));
  return out;
}

}  // namespace finetuned::data
