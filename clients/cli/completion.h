#pragma once

#include <functional>
#include <string>
#include <vector>

#include "clients/cli/command_tree.h"

namespace finetuned::cli {

// What could stand at the end of a command line.
struct Completion {
  struct Candidate {
    std::string word, help;
  };
  std::vector<Candidate> candidates;  // that start with the last word
  bool files = false, folders = false;  // the shell also offers paths
};

// Names the daemon knows ("jobs", "models", "datasets", "adapters"); empty when it does not answer.
using NameLookup = std::function<std::vector<std::string>(const std::string& collection)>;

// `words`: the command line after "finetune"; the last one, maybe empty, is being typed.
Completion Complete(const CommandInfo& root, const std::vector<std::string>& words, const NameLookup& lookup);

// The value that `words` give an option, "" when they do not: `finetune --server X ls <TAB>` asks X.
std::string OptionValue(const std::vector<std::string>& words, const std::string& option);

// The completion as `finetune __complete` prints it: "word TAB help" lines, then ":files", ":folders" or ":".
std::string CompletionText(const Completion& completion);

// A script for "bash", "zsh" or "fish" that asks `finetune __complete` on every TAB; "" for another shell.
std::string CompletionScript(const std::string& shell);

}  // namespace finetuned::cli
