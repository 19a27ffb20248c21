#include "engine/export/ollama.h"

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace finetuned::exports {
namespace {

// A format of chats: what marks it in a Jinja template, and the same in Go.
struct ChatFormat {
  const char* marker;
  const char* go_template;
};

constexpr ChatFormat kFormats[] = {
    {"<|im_start|>",
     "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"},
    {"<|start_header_id|>",
     "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end "
     "}}<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"<start_of_turn>",
     "{{- range .Messages }}<start_of_turn>{{ if eq .Role \"assistant\" }}model{{ else }}user{{ end }}\n{{ .Content "
     "}}<end_of_turn>\n{{ end }}<start_of_turn>model\n"},
    {"[INST]",
     "{{- range .Messages }}{{ if eq .Role \"assistant\" }} {{ .Content }}</s>{{ else }}[INST] {{ .Content }} "
     "[/INST]{{ end }}{{ end }}"},
};

std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
}

}  // namespace

absl::StatusOr<std::string> OllamaModelfile(const format::ModelSource& base, const std::string& from,
                                            const std::string& adapter) {
  const auto tokenizer = base.LoadTokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  std::string file = absl::StrCat("# ollama create NAME -f Modelfile\nFROM ", from, "\n");
  if (!adapter.empty()) absl::StrAppend(&file, "ADAPTER ", adapter, "\n");
  for (const ChatFormat& format : kFormats) {
    if (!absl::StrContains(base.chat_template(), format.marker)) continue;
    absl::StrAppend(&file, "TEMPLATE \"\"\"", format.go_template, "\"\"\"\n");
    break;
  }
  std::set<std::string> stops;
  for (int32_t id : base.config().eos_token_ids) stops.insert((*tokenizer)->IdToToken(id));
  if ((*tokenizer)->eos()) stops.insert((*tokenizer)->IdToToken(*(*tokenizer)->eos()));
  for (const std::string& stop : stops) absl::StrAppend(&file, "PARAMETER stop ", Quoted(stop), "\n");
  return file;
}

}  // namespace finetuned::exports
