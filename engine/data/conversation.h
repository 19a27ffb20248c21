#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/data/findings.h"
#include "engine/text/chat_template.h"

namespace finetuned::data {

// Which part of a row a message list is: it decides which roles may stand where.
enum class Part {
  kConversation,  // at least one assistant message
  kPrompt,        // should end before the assistant speaks
  kAnswer,        // begins with an assistant message; only assistant and tool messages
};

// Checks a list of messages. `path` is where it stands in the row, for messages and field names.
// Errors: not a list, empty, no role, unknown or misplaced role, content that is no text, tool
// calls without name or with arguments that are not JSON. Warnings: roles in an unusual order (a
// chat template may or may not render it), empty content, a tool result that answers no call, text
// that spells control tokens.
void CheckMessages(const text::Json& messages, const std::string& path, Part part,
                   Findings* findings);

// The role a name stands for (ShareGPT names only with from/value), or empty for an unknown one.
std::string_view CanonicalRole(std::string_view name, bool from_value);

// Checks the `tools` of a row: a list of objects, the same as a JSON string, or null or absent.
void CheckTools(const text::Json& row, Findings* findings);

// A checked message list in the form chat templates read: role and content (from/value renamed and
// the role names of ShareGPT mapped: human to user, gpt to assistant, observation to tool), a list
// of text parts joined to one string, the string form of tool call arguments decoded to an object.
// REQUIRES: CheckMessages found no error.
text::Json NormalizeMessages(const text::Json& messages);

// The tools of a checked row as a list, or null.
text::Json NormalizeTools(const text::Json& row);

// A message as chat templates read it.
text::Json ChatMessage(const char* role, std::string content);

// The template, or why it cannot be used.
absl::StatusOr<std::shared_ptr<const text::ChatTemplate>> ParseTemplate(const std::string& source);

// Normalized messages of a checked row, with its tools and chat_template_kwargs. every_row: what all rows share.
absl::StatusOr<text::Rendered> RenderMessages(const text::ChatTemplate& chat, text::RenderInput every_row,
                                              text::Json messages, const text::Json& row, bool generation_prompt);

}  // namespace finetuned::data
