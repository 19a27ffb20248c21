// The forms of messages and tools that chat templates read.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/conversation.h"
#include "engine/data/json_row.h"

namespace finetuned::data {
namespace {

using text::Json;

Json JoinParts(const Json& parts) {
  std::string text;
  for (const Json& part : parts) text += part.at("text").get_ref<const std::string&>();
  return text;
}

void DecodeArguments(Json* call) {
  if (!call->is_object()) return;
  const auto function = call->find("function");
  Json& body = function == call->end() ? *call : *function;
  const auto arguments = body.find("arguments");
  if (arguments == body.end() || !arguments->is_string()) return;
  Json value;
  if (!ParseJsonValue(arguments->get_ref<const std::string&>(), {}, &value)) {
    *arguments = std::move(value);
  }
}

Json NormalizeMessage(const Json& message) {
  Json out = Json::object();
  // Appended without a look-up each: a hostile row may have very many keys, all different.
  auto& members = out.get_ref<Json::object_t&>();
  const bool from_value = message.contains("from");
  const std::string role_key = from_value ? "from" : "role";
  const std::string content_key = from_value ? "value" : "content";
  for (const auto& [key, value] : message.items()) {
    if (key == role_key) {
      const auto& name = value.get_ref<const std::string&>();
      members.emplace_back("role", std::string(CanonicalRole(name, from_value)));
    } else if (key == content_key) {
      members.emplace_back("content", value.is_array() ? JoinParts(value) : value);
    } else if (key != "role" && key != "content") {
      members.emplace_back(key, value);
    }
  }
  const auto calls = out.find("tool_calls");
  if (calls != out.end() && calls->is_array()) {
    for (Json& call : *calls) DecodeArguments(&call);
  }
  return out;
}

}  // namespace

Json NormalizeMessages(const Json& messages) {
  Json out = Json::array();
  for (const Json& message : messages) out.push_back(NormalizeMessage(message));
  return out;
}

Json NormalizeTools(const Json& row) {
  const auto tools = row.find("tools");
  if (tools == row.end() || tools->is_null()) return nullptr;
  if (!tools->is_string()) return *tools;
  Json decoded;
  if (ParseJsonValue(tools->get_ref<const std::string&>(), {}, &decoded)) return nullptr;
  return decoded;
}

Json ChatMessage(const char* role, std::string content) {
  Json message = Json::object();
  message["role"] = role;
  message["content"] = std::move(content);
  return message;
}

absl::StatusOr<std::shared_ptr<const text::ChatTemplate>> ParseTemplate(const std::string& source) {
  auto parsed = text::ParseChatTemplate(source);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(),
                      absl::StrCat("the chat template cannot be used: ", parsed.status().message()));
}

absl::StatusOr<text::Rendered> RenderMessages(const text::ChatTemplate& chat, text::RenderInput every_row,
                                              Json messages, const Json& row, bool generation_prompt) {
  every_row.messages = std::move(messages);
  every_row.tools = NormalizeTools(row);
  const auto kwargs = row.find("chat_template_kwargs");
  if (kwargs != row.end() && kwargs->is_object()) every_row.extra = *kwargs;
  every_row.add_generation_prompt = generation_prompt;
  return chat.Render(every_row);
}

}  // namespace finetuned::data
