#include "engine/data/row_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/conversation.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

using text::ByteRange;
using text::Json;
using Loss = TokenizeOptions::Loss;

constexpr const char* kWaysOut =
    "put {% generation %} ... {% endgeneration %} around the assistant's text in a chat_template "
    "of "
    "the job, or train on all tokens";

bool IsMessageList(Format format) {
  return format == Format::kMessages || format == Format::kConversations;
}

// Sorted and disjoint, without empty ranges.
std::vector<ByteRange> Merged(std::vector<ByteRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const ByteRange& a, const ByteRange& b) { return a.begin < b.begin; });
  std::vector<ByteRange> merged;
  for (const ByteRange& range : ranges) {
    if (range.begin >= range.end) continue;
    if (!merged.empty() && range.begin <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, range.end);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

std::vector<ByteRange> From(size_t begin, const std::vector<ByteRange>& ranges) {
  std::vector<ByteRange> out;
  for (const ByteRange& range : ranges) {
    if (range.end > begin) out.push_back({std::max(range.begin, begin), range.end});
  }
  return out;
}

size_t CommonPrefix(std::string_view a, std::string_view b) {
  const size_t limit = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin();
}

std::string StringOr(const Json& row, const char* field) {
  const auto value = row.find(field);
  return value != row.end() && value->is_string() ? value->get<std::string>() : "";
}

}  // namespace

absl::StatusOr<RowTexter> RowTexter::Create(const Schema& schema, const text::Tokenizer& tokenizer,
                                            const std::string& model_chat_template,
                                            const TokenizeOptions& options) {
  RowTexter texter(schema, options);
  text::SetSpecialTokens(tokenizer, &texter.every_input_);
  texter.every_input_.now_unix_seconds = options.now_unix_seconds;
  if (absl::Status status = texter.ChooseTemplate(model_chat_template); !status.ok()) return status;
  if (absl::Status status = texter.ChooseTarget(); !status.ok()) return status;
  return texter;
}

absl::Status RowTexter::ChooseTemplate(const std::string& model_chat_template) {
  if (!schema_.conversational && schema_.format != Format::kAlpaca) return absl::OkStatus();
  template_source_ = options_.chat_template.empty() ? model_chat_template : options_.chat_template;
  if (template_source_.empty()) {
    if (schema_.format == Format::kAlpaca) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the rows are conversations (format ", SpecOf(schema_.format).name,
                     "), but the model has no chat template; set chat_template in the job"));
  }
  auto parsed = ParseTemplate(template_source_);
  if (!parsed.ok()) return parsed.status();
  template_ = *std::move(parsed);
  return absl::OkStatus();
}

absl::Status RowTexter::UseTrainingTemplate() {
  if (template_->has_generation_blocks()) return absl::OkStatus();
  const std::string_view known = text::KnownTrainingTemplate(template_source_);
  if (known.empty()) {
    const std::string_view first_line =
        std::string_view(template_source_).substr(0, template_source_.find('\n'));
    return absl::FailedPreconditionError(absl::StrCat(
        "the ",
        options_.chat_template.empty() ? "model's chat template" : "chat_template of the job", " (",
        template_source_.size(), " bytes, beginning ", Quoted(first_line, 60),
        ") does not mark what the assistant says"));
  }
  auto parsed = text::ParseChatTemplate(known);
  if (!parsed.ok()) return parsed.status();
  template_ = *std::move(parsed);
  template_source_ = known;
  return absl::OkStatus();
}

absl::Status RowTexter::ChooseTarget() {
  const std::string name = SpecOf(schema_.format).name;
  const bool messages = IsMessageList(schema_.format);
  switch (options_.loss) {
    case Loss::kAllTokens:
      target_ = Target::kAll;
      return absl::OkStatus();
    case Loss::kCompletionOnly:
      if (messages || schema_.format == Format::kText) {
        return absl::InvalidArgumentError(
            absl::StrCat("completion-only loss needs rows with prompt and completion (or "
                         "instruction and output), but the file is of format ",
                         name, messages ? "; use assistant-only loss" : ""));
      }
      target_ = Target::kCompletion;
      return absl::OkStatus();
    case Loss::kAssistantOnly: {
      if (!template_) {
        return absl::InvalidArgumentError(absl::StrCat(
            "assistant-only loss needs conversations rendered with a chat template, but the rows "
            "of format ",
            name, " are plain text"));
      }
      absl::Status marked = UseTrainingTemplate();
      if (!marked.ok()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "assistant-only loss is not possible: ", marked.message(), "; ", kWaysOut));
      }
      target_ = messages ? Target::kSpans : Target::kSpansOfCompletion;
      return absl::OkStatus();
    }
    case Loss::kAuto:
      break;
  }
  if (schema_.format == Format::kText) return absl::OkStatus();
  if (!messages) {
    target_ = Target::kCompletion;
    return absl::OkStatus();
  }
  absl::Status marked = UseTrainingTemplate();
  if (marked.ok()) {
    target_ = Target::kSpans;
    return absl::OkStatus();
  }
  warning_ = RowError{0, "", "TRAINS_ON_ALL_TOKENS",
                      absl::StrCat(marked.message(), ", so all tokens train, the user's too; ",
                                   "to train on the assistant only, put {% generation %} ... "
                                   "{% endgeneration %} around its text in a chat_template")};
  return absl::OkStatus();
}

absl::StatusOr<RowText> RowTexter::RenderConversation(const Json& row) const {
  const char* field = schema_.format == Format::kMessages ? "messages" : "conversations";
  auto rendered = RenderMessages(*template_, every_input_, NormalizeMessages(row[field]), row, false);
  if (!rendered.ok()) return rendered.status();
  RowText out;
  out.text = std::move(rendered->text);
  out.literal = Merged(std::move(rendered->from_user));
  if (target_ == Target::kSpans) {
    out.trained = Merged(std::move(rendered->generation));
  } else {
    out.trained = {{0, out.text.size()}};
  }
  return out;
}

absl::StatusOr<RowText> RowTexter::RenderPromptCompletion(Json prompt, const Json& completion,
                                                          const Json& row) const {
  Json whole = prompt;
  whole.insert(whole.end(), completion.begin(), completion.end());
  auto rendered = RenderMessages(*template_, every_input_, std::move(whole), row, false);
  if (!rendered.ok()) return rendered.status();
  RowText out;
  out.text = std::move(rendered->text);
  out.literal = Merged(std::move(rendered->from_user));
  if (target_ == Target::kAll) {
    out.trained = {{0, out.text.size()}};
    return out;
  }
  auto prompt_only = RenderMessages(*template_, every_input_, std::move(prompt), row, true);
  if (!prompt_only.ok()) return prompt_only.status();
  const size_t begin = CommonPrefix(prompt_only->text, out.text);
  if (target_ == Target::kSpansOfCompletion) {
    out.trained = From(begin, Merged(std::move(rendered->generation)));
  } else {
    out.trained = {{begin, out.text.size()}};
  }
  return out;
}

RowText RowTexter::JoinStrings(const std::string& prompt, const std::string& completion) const {
  RowText out;
  out.text = prompt + completion;
  out.trained = {{target_ == Target::kAll ? 0 : prompt.size(), out.text.size()}};
  out.add_special_tokens = true;
  out.append_eos = options_.append_eos;
  return out;
}

RowText RowTexter::AlpacaPrompt(const Json& row) const {
  const std::string instruction = StringOr(row, "instruction");
  const std::string input = StringOr(row, "input");
  const std::string output = StringOr(row, "output");
  std::vector<ByteRange> literal;
  std::string prompt = "Below is an instruction that describes a task";
  const auto append = [&](const std::string& field) {
    literal.push_back({prompt.size(), prompt.size() + field.size()});
    prompt += field;
  };
  prompt += input.empty() ? ". " : ", paired with an input that provides further context. ";
  prompt += "Write a response that appropriately completes the request.\n\n### Instruction:\n";
  append(instruction);
  if (!input.empty()) {
    prompt += "\n\n### Input:\n";
    append(input);
  }
  prompt += "\n\n### Response:\n";
  RowText out = JoinStrings(prompt, output);
  literal.push_back({prompt.size(), out.text.size()});
  out.literal = Merged(std::move(literal));
  return out;
}

absl::StatusOr<RowText> RowTexter::RenderAnswer(const Json& row, const char* answer) const {
  if (schema_.conversational) {
    return RenderPromptCompletion(NormalizeMessages(row["prompt"]), NormalizeMessages(row[answer]), row);
  }
  return JoinStrings(row["prompt"].get<std::string>(), row[answer].get<std::string>());
}

absl::StatusOr<RowText> RowTexter::Render(const Json& row) const {
  switch (schema_.format) {
    case Format::kText:
      return JoinStrings("", row["text"].get<std::string>());
    case Format::kAlpaca: {
      if (!template_) return AlpacaPrompt(row);
      std::string question = StringOr(row, "instruction");
      const std::string input = StringOr(row, "input");
      if (!input.empty()) absl::StrAppend(&question, "\n\n", input);
      return RenderPromptCompletion(Json::array({ChatMessage("user", std::move(question))}),
                                    Json::array({ChatMessage("assistant", StringOr(row, "output"))}), row);
    }
    case Format::kPromptCompletion:
    case Format::kUnpaired:
      return RenderAnswer(row, "completion");
    default:
      return RenderConversation(row);
  }
}

}  // namespace finetuned::data
