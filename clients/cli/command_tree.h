#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace finetuned::cli {

// What a value stands for: what completion offers for it.
enum class ValueKind { kNone, kWord, kChoice, kFile, kFolder, kData, kJob, kModel, kDataset, kAdapter };

struct OptionInfo {
  std::vector<std::string> names;    // "-o", "--output"; one bare name for a positional argument
  std::string help;
  ValueKind kind = ValueKind::kNone;  // kNone: a flag
  std::vector<std::string> choices;  // of kChoice
  bool required = false;
  bool repeated = false;             // takes several values
};

// A command with everything below it, as the parser knows it: completion and the manual page are made from
// this, so neither can fall behind. Hidden commands and options (empty group) are left out.
struct CommandInfo {
  std::string name;                  // "sft"
  std::string path;                  // "finetune run sft"
  std::string help;
  std::vector<OptionInfo> options, arguments;
  std::vector<CommandInfo> commands;
};

CommandInfo DescribeCommands(const CLI::App& cli);

}  // namespace finetuned::cli
