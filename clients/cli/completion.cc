#include "clients/cli/completion.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace finetuned::cli {
namespace {

// Each script hands over the words up to the cursor and shows what comes back; only the quoting differs.
constexpr char kBash[] = R"(# bash completion of finetune. Load it: source <(finetune completion bash)
_finetune() {
  local line=${COMP_LINE:0:COMP_POINT} out directive
  local -a words=("${COMP_WORDS[@]:1:COMP_CWORD}")
  local cur=${COMP_WORDS[COMP_CWORD]}
  # bash splits words at = and :, the command does not.
  if [[ $line =~ [^[:space:]]*$ ]] && [[ ${BASH_REMATCH[0]} == *[=:]* ]]; then
    local -a plain; read -ra plain <<<"$line"; words=("${plain[@]:1}")
    cur=${BASH_REMATCH[0]}
  fi
  out=$("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null) || return
  directive=${out##*$'\n'}
  out=$(sed -e '$d' -e 's/\t.*//' <<<"$out")
  local IFS=$'\n'
  COMPREPLY=($out)
  if [[ $cur == *[=:]* ]]; then COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*[=:]}"}"}"); cur=${cur##*[=:]}; fi
  case $directive in
    :files) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur")) ;;
    :folders) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -d -- "$cur")) ;;
  esac
}
complete -F _finetune finetune
)";

constexpr char kZsh[] = R"(#compdef finetune
# zsh completion of finetune. Load it: source <(finetune completion zsh), or save it as _finetune in $fpath.
_finetune() {
  local out directive line
  local -a candidates
  out=$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null) || return
  directive=${out##*$'\n'}
  for line in ${(f)out}; do
    [[ $line == :* ]] && continue
    if [[ $line == *$'\t'* ]]; then
      candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    else
      candidates+=("${line//:/\\:}")
    fi
  done
  (( $#candidates )) && _describe -V finetune candidates
  case $directive in
    :files) _files ;;
    :folders) _files -/ ;;
  esac
}
if [[ $funcstack[1] == _finetune ]]; then _finetune "$@"; else compdef _finetune finetune; fi
)";

constexpr char kFish[] = R"(# fish completion of finetune. Load it: finetune completion fish | source
function __finetune_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l out ($words[1] __complete $words[2..-1] 2>/dev/null); or return
  set -l directive $out[-1]
  for line in $out[1..-2]
    echo $line
  end
  switch $directive
    case :files
      __fish_complete_path (commandline -ct)
    case :folders
      __fish_complete_directories (commandline -ct)
  end
end
complete -c finetune -f -a '(__finetune_complete)'
)";

const OptionInfo* FindOption(const std::vector<const CommandInfo*>& path, const std::string& name) {
  for (auto command = path.rbegin(); command != path.rend(); ++command) {
    for (const OptionInfo& option : (*command)->options) {
      if (std::find(option.names.begin(), option.names.end(), name) != option.names.end()) return &option;
    }
  }
  return nullptr;
}

// Offers values of `option` after `prefix`, which stands before the value in the same word ("--output=").
void AddValues(const OptionInfo& option, const std::string& prefix, const std::string& typed, const NameLookup& lookup,
               Completion* out) {
  const auto add = [&](const std::string& word) {
    if (absl::StartsWith(word, typed)) out->candidates.push_back({prefix + word, ""});
  };
  const auto names = [&](const char* collection, const char* before = "") {
    for (const std::string& name : lookup(collection)) add(before + name);
  };
  switch (option.kind) {
    case ValueKind::kChoice:
      for (const std::string& choice : option.choices) add(choice);
      break;
    case ValueKind::kFile: out->files = true; break;
    case ValueKind::kFolder: out->folders = true; break;
    case ValueKind::kData:
      out->files = true;
      if (absl::StartsWith(typed, "d")) names("datasets", "datasets/");
      break;
    case ValueKind::kJob: names("jobs"); break;
    case ValueKind::kModel: names("models"); break;
    case ValueKind::kDataset: names("datasets"); break;
    case ValueKind::kAdapter: names("adapters"); break;
    case ValueKind::kNone:
    case ValueKind::kWord: break;
  }
}

void AddOptionNames(const std::vector<const CommandInfo*>& path, const std::string& typed, Completion* out) {
  for (auto command = path.rbegin(); command != path.rend(); ++command) {
    for (const OptionInfo& option : (*command)->options) {
      const std::string& name = option.names.back();  // the long one
      const bool known = std::any_of(out->candidates.begin(), out->candidates.end(),
                                     [&](const auto& candidate) { return candidate.word == name; });
      if (!known && absl::StartsWith(name, typed)) out->candidates.push_back({name, option.help});
    }
  }
}

}  // namespace

Completion Complete(const CommandInfo& root, const std::vector<std::string>& words, const NameLookup& lookup) {
  Completion out;
  if (words.empty()) return out;
  std::vector<const CommandInfo*> path = {&root};
  size_t arguments = 0;             // positional ones seen of the innermost command
  const OptionInfo* open = nullptr;  // an option that waits for its value
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    const std::string& word = words[i];
    if (open != nullptr) {
      open = nullptr;
    } else if (absl::StartsWith(word, "-") && word != "-") {
      const OptionInfo* option = FindOption(path, word);
      if (option != nullptr && option->kind != ValueKind::kNone) open = option;
    } else {
      const auto& commands = path.back()->commands;
      const auto found = std::find_if(commands.begin(), commands.end(), [&](const auto& c) { return c.name == word; });
      if (found != commands.end()) {
        path.push_back(&*found);
        arguments = 0;
      } else {
        ++arguments;
      }
    }
  }
  const std::string& typed = words.back();
  if (open != nullptr) {
    AddValues(*open, "", typed, lookup, &out);
    return out;
  }
  if (const size_t equals = typed.find('='); absl::StartsWith(typed, "--") && equals != std::string::npos) {
    const OptionInfo* option = FindOption(path, typed.substr(0, equals));
    if (option != nullptr) AddValues(*option, typed.substr(0, equals + 1), typed.substr(equals + 1), lookup, &out);
    return out;
  }
  if (absl::StartsWith(typed, "-")) {
    AddOptionNames(path, typed, &out);
    return out;
  }
  for (const CommandInfo& command : path.back()->commands) {
    if (absl::StartsWith(command.name, typed)) out.candidates.push_back({command.name, command.help});
  }
  const auto& expected = path.back()->arguments;
  if (!expected.empty() && (arguments < expected.size() || expected.back().repeated)) {
    AddValues(expected[std::min(arguments, expected.size() - 1)], "", typed, lookup, &out);
  }
  return out;
}

std::string OptionValue(const std::vector<std::string>& words, const std::string& option) {
  std::string value;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == option && i + 1 < words.size()) value = words[i + 1];
    if (absl::StartsWith(words[i], option + "=")) value = words[i].substr(option.size() + 1);
  }
  return value;
}

std::string CompletionText(const Completion& completion) {
  std::string out;
  for (const auto& candidate : completion.candidates) {
    absl::StrAppend(&out, candidate.word, candidate.help.empty() ? "" : "\t", candidate.help, "\n");
  }
  return absl::StrCat(out, completion.files ? ":files" : completion.folders ? ":folders" : ":", "\n");
}

std::string CompletionScript(const std::string& shell) {
  return shell == "bash" ? kBash : shell == "zsh" ? kZsh : shell == "fish" ? kFish : "";
}

}  // namespace finetuned::cli
