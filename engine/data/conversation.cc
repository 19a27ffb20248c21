#include "engine/data/conversation.h"

#include <array>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/data/json_row.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

using text::Json;

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};
constexpr const char* kRoleList = "system, developer, user, assistant, tool";

// Role names of the ShareGPT form.
constexpr std::pair<std::string_view, std::string_view> kShareGptRoles[] = {
    {"human", "user"},     {"gpt", "assistant"},  {"chatgpt", "assistant"},
    {"bing", "assistant"}, {"bard", "assistant"}, {"observation", "tool"},
};

bool IsFromValue(const Json& message) { return message.contains("from"); }

const Json* Find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

bool HasToolCalls(const Json& message) {
  const Json* calls = Find(message, "tool_calls");
  return calls && calls->is_array() && !calls->empty();
}

bool IsListOfTextParts(const Json& content) {
  if (!content.is_array()) return false;
  for (const Json& part : content) {
    if (!part.is_object() || part.value("type", Json()) != "text") return false;
    const Json* text = Find(part, "text");
    if (!text || !text->is_string()) return false;
  }
  return true;
}

// Where `text` spells something like a control token: <|...|>, <s>, </s> or [INST]. Empty if
// nowhere.
std::string_view ControlTokenSpelling(std::string_view text) {
  for (size_t open = text.find("<|"); open != text.npos; open = text.find("<|", open + 1)) {
    const size_t close = text.find("|>", open + 2);
    if (close == text.npos) break;
    if (close - open <= 40 && text.substr(open, close - open).find(' ') == text.npos) {
      return text.substr(open, close + 2 - open);
    }
  }
  for (std::string_view token :
       {"</s>", "<s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"}) {
    const size_t at = text.find(token);
    if (at != text.npos) return text.substr(at, token.size());
  }
  return {};
}

class MessageChecker {
 public:
  MessageChecker(const Json& messages, const std::string& path, Part part, Findings* findings)
      : messages_(messages), path_(path), part_(part), findings_(findings) {}

  void Check() {
    if (!messages_.is_array()) {
      findings_->Error(
          path_, "WRONG_TYPE",
          absl::StrCat(path_, " must be a list of messages, got ", TypeName(messages_)));
      return;
    }
    if (messages_.empty()) {
      findings_->Error(path_, "EMPTY_LIST", absl::StrCat(path_, " is empty"));
      return;
    }
    for (size_t i = 0; i < messages_.size(); ++i) {
      at_ = absl::StrCat(path_, "[", i, "]");
      CheckMessage(i);
    }
    if (part_ == Part::kConversation && !has_assistant_ && roles_known_) {
      findings_->Error(path_, "NO_ASSISTANT_MESSAGE",
                       absl::StrCat(path_, " has no assistant message: nothing to train on"));
    }
    if (part_ == Part::kPrompt && previous_role_ == "assistant") {
      findings_->Warn(absl::StrCat(at_, ".", RoleKey(messages_.back())),
                      "PROMPT_ENDS_WITH_ASSISTANT",
                      "the prompt ends with an assistant message; the answer becomes a second "
                      "assistant turn, it does not continue the first");
    }
  }

 private:
  static const char* RoleKey(const Json& message) { return IsFromValue(message) ? "from" : "role"; }
  static const char* ContentKey(const Json& message) {
    return IsFromValue(message) ? "value" : "content";
  }

  void Error(absl::string_view field, const char* reason, absl::string_view what) {
    const std::string full = absl::StrCat(at_, field.empty() ? "" : ".", field);
    findings_->Error(full, reason, absl::StrCat(full, " ", what));
  }
  void Warn(absl::string_view field, const char* reason, absl::string_view what) {
    const std::string full = absl::StrCat(at_, ".", field);
    findings_->Warn(full, reason, absl::StrCat(full, " ", what));
  }

  void CheckMessage(size_t index) {
    const Json& message = messages_[index];
    if (!message.is_object()) {
      roles_known_ = false;
      Error("", "WRONG_TYPE", absl::StrCat("must be an object, got ", TypeName(message)));
      return;
    }
    const std::string_view role = CheckRole(message, index);
    if (role.empty()) {
      roles_known_ = false;
      return;
    }
    CheckContent(message, role);
    CheckToolCalls(message, role);
    if (role == "tool") CheckToolResult(message);
    has_assistant_ |= role == "assistant";
    previous_role_ = role;
  }

  std::string_view CheckRole(const Json& message, size_t index) {
    const char* key = RoleKey(message);
    const Json* role = Find(message, key);
    if (!role) {
      Error(key, "MISSING_FIELD", "is missing");
      return {};
    }
    if (!role->is_string()) {
      Error(key, "WRONG_TYPE", absl::StrCat("must be a string, got ", TypeName(*role)));
      return {};
    }
    const auto& name = role->get_ref<const std::string&>();
    const std::string_view known = CanonicalRole(name, IsFromValue(message));
    if (known.empty()) {
      Error(key, "UNKNOWN_ROLE",
            absl::StrCat("is ", Quoted(name), "; known roles are ", kRoleList,
                         IsFromValue(message) ? " (and human, gpt, observation)" : ""));
      return {};
    }
    CheckOrder(known, key, index);
    return known;
  }

  void CheckOrder(std::string_view role, const char* key, size_t index) {
    if (part_ == Part::kAnswer) {
      if (index == 0 && role != "assistant") {
        Error(key, "WRONG_ROLE", absl::StrCat("must be assistant, got ", ForAbseil(role)));
      } else if (role != "assistant" && role != "tool") {
        Error(key, "WRONG_ROLE", absl::StrCat("must be assistant or tool, got ", ForAbseil(role)));
      }
      return;
    }
    if ((role == "system" || role == "developer") && index > 0) {
      Warn(key, "SYSTEM_NOT_FIRST",
           absl::StrCat("is ", ForAbseil(role),
                        ", which is usual only in the first message; the chat "
                        "template may refuse or ignore it"));
    } else if (role == previous_role_ && (role == "user" || role == "assistant")) {
      Warn(key, "REPEATED_ROLE",
           absl::StrCat("is ", ForAbseil(role),
                        " as in the message before; the chat template may refuse it"));
    }
  }

  void CheckContent(const Json& message, std::string_view role) {
    const char* key = ContentKey(message);
    const Json* content = Find(message, key);
    const bool may_lack = role == "assistant" && HasToolCalls(message);
    if (!content || content->is_null()) {
      if (may_lack) return;
      Error(key, content ? "WRONG_TYPE" : "MISSING_FIELD",
            content ? "is null, which is fine only beside tool_calls" : "is missing");
      return;
    }
    if (content->is_array()) {
      if (IsListOfTextParts(*content)) return;
      Error(key, "UNSUPPORTED_CONTENT",
            "is a list with parts that are not text; only text parts can be trained on");
      return;
    }
    if (!content->is_string()) {
      Error(key, "WRONG_TYPE", absl::StrCat("must be a string, got ", TypeName(*content)));
      return;
    }
    const auto& text = content->get_ref<const std::string&>();
    if (IsBlank(text) && !may_lack) {
      Warn(key, "EMPTY_FIELD",
           role == "assistant" ? "is empty: the turn teaches only to stop" : "is empty");
    }
    if (const std::string_view token = ControlTokenSpelling(text); !token.empty()) {
      Warn(key, "CONTROL_TOKEN_TEXT",
           absl::StrCat("spells ", Quoted(token),
                        "; it is trained on as text, not as a control "
                        "token"));
    }
  }

  void CheckToolCalls(const Json& message, std::string_view role) {
    const Json* calls = Find(message, "tool_calls");
    if (!calls || calls->is_null()) return;
    if (!calls->is_array()) {
      Error("tool_calls", "WRONG_TYPE", absl::StrCat("must be a list, got ", TypeName(*calls)));
      return;
    }
    if (role != "assistant" && !calls->empty()) {
      Error("tool_calls", "WRONG_ROLE",
            absl::StrCat("stands in a message of role ", ForAbseil(role),
                         "; only assistant calls tools"));
    }
    for (size_t i = 0; i < calls->size(); ++i) {
      CheckToolCall((*calls)[i], absl::StrCat("tool_calls[", i, "]"));
    }
  }

  void CheckToolCall(const Json& call, const std::string& field) {
    if (!call.is_object()) {
      Error(field, "WRONG_TYPE", absl::StrCat("must be an object, got ", TypeName(call)));
      return;
    }
    if (const Json* id = Find(call, "id"); id && id->is_string()) {
      call_ids_.insert(id->get<std::string>());
    }
    const Json* function = Find(call, "function");
    const std::string prefix = function ? absl::StrCat(field, ".function") : field;
    const Json& body = function ? *function : call;
    if (!body.is_object()) {
      Error(prefix, "WRONG_TYPE", absl::StrCat("must be an object, got ", TypeName(body)));
      return;
    }
    const Json* name = Find(body, "name");
    if (!name || !name->is_string() || name->get_ref<const std::string&>().empty()) {
      Error(absl::StrCat(prefix, ".name"), name ? "WRONG_TYPE" : "MISSING_FIELD",
            "must be the name of a tool");
    }
    CheckArguments(body, absl::StrCat(prefix, ".arguments"));
  }

  void CheckArguments(const Json& body, const std::string& field) {
    const Json* arguments = Find(body, "arguments");
    if (!arguments || arguments->is_null() || arguments->is_object()) return;
    if (!arguments->is_string()) {
      Error(field, "WRONG_TYPE",
            absl::StrCat("must be an object or its JSON text, got ", TypeName(*arguments)));
      return;
    }
    Json value;
    const auto error = ParseJsonValue(arguments->get_ref<const std::string&>(), {}, &value);
    if (error) {
      Error(field, "INVALID_TOOL_ARGUMENTS", absl::StrCat("is not JSON: ", error->message));
    } else if (!value.is_object()) {
      Error(field, "INVALID_TOOL_ARGUMENTS",
            absl::StrCat("must be the JSON text of an object, got that of ", TypeName(value)));
    }
  }

  void CheckToolResult(const Json& message) {
    const Json* id = Find(message, "tool_call_id");
    // In an answer the call may stand in the prompt.
    if (!id || !id->is_string() || part_ == Part::kAnswer) return;
    const auto& name = id->get_ref<const std::string&>();
    if (!call_ids_.contains(name)) {
      Warn("tool_call_id", "TOOL_RESULT_WITHOUT_CALL",
           absl::StrCat("is ", Quoted(name), ", which no earlier tool call has as its id"));
    }
  }

  const Json& messages_;
  const std::string path_;
  const Part part_;
  Findings* findings_;
  std::string at_;  // path of the current message
  std::string_view previous_role_;
  bool has_assistant_ = false;
  bool roles_known_ = true;
  absl::flat_hash_set<std::string> call_ids_;
};

}  // namespace

std::string_view CanonicalRole(std::string_view name, bool from_value) {
  for (std::string_view role : kRoles) {
    if (role == name) return role;
  }
  if (!from_value) return {};
  for (const auto& [other, role] : kShareGptRoles) {
    if (other == name) return role;
  }
  return {};
}

void CheckMessages(const Json& messages, const std::string& path, Part part, Findings* findings) {
  MessageChecker(messages, path, part, findings).Check();
}

void CheckTools(const Json& row, Findings* findings) {
  const Json* tools = Find(row, "tools");
  if (!tools || tools->is_null()) return;
  Json decoded;
  if (tools->is_string()) {
    const auto error = ParseJsonValue(tools->get_ref<const std::string&>(), {}, &decoded);
    if (error) {
      findings->Error("tools", "WRONG_TYPE",
                      absl::StrCat("tools is a string that is not JSON: ", error->message));
      return;
    }
    if (decoded.is_null()) return;
    tools = &decoded;
  }
  if (!tools->is_array()) {
    findings->Error("tools", "WRONG_TYPE",
                    absl::StrCat("tools must be a list of tools, got ", TypeName(*tools)));
    return;
  }
  for (size_t i = 0; i < tools->size(); ++i) {
    if ((*tools)[i].is_object()) continue;
    const std::string field = absl::StrCat("tools[", i, "]");
    findings->Error(field, "WRONG_TYPE",
                    absl::StrCat(field, " must be an object, got ", TypeName((*tools)[i])));
  }
}

}  // namespace finetuned::data
