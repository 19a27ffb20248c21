#include "clients/cli/man_page.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace finetuned::cli {
namespace {

constexpr char kTail[] = R"(.SH EXIT STATUS
.TP
.B 0
Done. For
.B watch
and
.BR run :
the job succeeded.
.TP
.B 1
Failed: the daemon refused or could not do it, or the job that was watched
failed or was cancelled.
.TP
.B 2
Wrong usage or input: an unknown option, a file that cannot be read, a field
the daemon does not accept.
.TP
.B 3
No daemon answers, or not in time.
.TP
.B 130
Interrupted with Ctrl\-C. A watched job goes on.
.SH ENVIRONMENT
.TP
.B FINETUNED_SERVER
Address of the daemon, as
.BR \-\-server .
.TP
.B NO_COLOR
When set and not empty, no colours. They are also off when standard output is
not a terminal.
.SH FILES
.TP
.I $XDG_RUNTIME_DIR/finetuned/finetuned.sock
Socket of a user's own daemon, asked when no
.B \-\-server
is given; without XDG_RUNTIME_DIR it lies below
.IR ~/.local/state .
.TP
.I /run/finetuned/finetuned.sock
Socket of the system's daemon; root's default.
.SH EXAMPLES
.nf
finetune run sft \-\-model smollm2 \-\-data rows.jsonl
finetune submit job.yaml \-\-watch
finetune ls \-\-watch
finetune plot JOB \-\-metric loss,grad_norm
finetune pull JOB \-\-to adapter
source <(finetune completion bash)
.fi
)";

// A minus that can be copied, and no line that groff takes for a request.
std::string Escape(const std::string& text) {
  std::string out = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}});
  if (!out.empty() && (out[0] == '.' || out[0] == '\'')) out.insert(0, "\\&");
  return out;
}

std::string Value(const OptionInfo& option) {
  if (option.kind == ValueKind::kNone) return "";
  if (!option.choices.empty()) return absl::StrJoin(option.choices, "|");
  switch (option.kind) {
    case ValueKind::kFile: return "FILE";
    case ValueKind::kFolder: return "DIR";
    case ValueKind::kData: return "FILE";
    case ValueKind::kModel: return "MODEL";
    default: return "VALUE";
  }
}

void AppendOptions(const std::vector<OptionInfo>& options, std::string* out) {
  for (const OptionInfo& option : options) {
    if (option.names.back() == "--help") continue;  // every command has it
    const std::string value = Value(option);
    std::vector<std::string> names;
    for (const std::string& name : option.names) names.push_back(absl::StrCat("\\fB", Escape(name), "\\fR"));
    absl::StrAppend(out, ".TP\n", absl::StrJoin(names, ", "));
    absl::StrAppend(out, value.empty() ? "" : absl::StrCat(" \\fI", Escape(value), "\\fR"), "\n",
                    Escape(option.help), "\n");
  }
}

void AppendCommand(const CommandInfo& command, std::string* out) {
  if (command.commands.empty()) {
    std::string synopsis = absl::StrCat("\\fB", Escape(command.path), "\\fR");
    for (const OptionInfo& argument : command.arguments) {
      const std::string name = absl::AsciiStrToUpper(argument.names[0]);
      absl::StrAppend(&synopsis, argument.required ? " \\fI" : " [\\fI", Escape(name), "\\fR",
                      argument.repeated ? " ..." : "", argument.required ? "" : "]");
    }
    absl::StrAppend(out, ".SS ", synopsis, "\n", Escape(command.help), ".\n");
    AppendOptions(command.options, out);
  }
  for (const CommandInfo& sub : command.commands) AppendCommand(sub, out);
}

}  // namespace

std::string ManPage(const CommandInfo& root, const std::string& version) {
  std::string out = absl::StrCat(".TH FINETUNE 1 \"\" \"finetuned ", version, "\" \"User Commands\"\n",
                                 ".SH NAME\nfinetune \\- fine\\-tune language models through the finetuned daemon\n",
                                 ".SH SYNOPSIS\n.B finetune\n[\\fIoptions\\fR] \\fIcommand\\fR ...\n",
                                 ".SH DESCRIPTION\n", Escape(root.help),
                                 "\nJobs are named by their id; unset fields get the daemon's defaults.\n.SH OPTIONS\n",
                                 "These stand before or after the command.\n");
  AppendOptions(root.options, &out);
  absl::StrAppend(&out, ".SH COMMANDS\n");
  for (const CommandInfo& command : root.commands) AppendCommand(command, &out);
  return out + kTail;
}

}  // namespace finetuned::cli
