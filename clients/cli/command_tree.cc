#include "clients/cli/command_tree.h"

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace finetuned::cli {
namespace {

// By the name of an option or argument; names mean the same in every command.
ValueKind KindOf(const std::string& name) {
  static const std::map<std::string, ValueKind> kKinds = {
      {"job", ValueKind::kJob},          {"jobs", ValueKind::kJob},         {"file", ValueKind::kFile},
      {"data", ValueKind::kData},        {"--data", ValueKind::kData},      {"--eval", ValueKind::kData},
      {"--model", ValueKind::kModel},    {"--to", ValueKind::kFolder},      {"dataset", ValueKind::kDataset},
      {"adapter", ValueKind::kAdapter},  {"--adapter", ValueKind::kAdapter}, {"--token-file", ValueKind::kFile},
      {"--ca", ValueKind::kFile},        {"--cert", ValueKind::kFile},      {"--key", ValueKind::kFile}};
  const auto found = kKinds.find(name);
  return found == kKinds.end() ? ValueKind::kWord : found->second;
}

// "TEXT:{table,json,yaml}" -> the three words.
std::vector<std::string> Choices(const std::string& type) {
  const size_t open = type.find('{'), close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos || close < open) return {};
  return absl::StrSplit(type.substr(open + 1, close - open - 1), ',');
}

OptionInfo Describe(const CLI::Option& option) {
  OptionInfo info;
  for (const std::string& name : option.get_snames()) info.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) info.names.push_back("--" + name);
  if (info.names.empty()) info.names.push_back(option.get_single_name());
  info.help = option.get_description();
  info.required = option.get_required();
  info.repeated = option.get_items_expected_max() > 1;
  if (option.get_items_expected_max() == 0) return info;
  info.choices = Choices(option.get_type_name());
  info.kind = info.choices.empty() ? KindOf(info.names.back()) : ValueKind::kChoice;
  return info;
}

CommandInfo Describe(const CLI::App& app, const std::string& parent) {
  CommandInfo info;
  info.name = app.get_name();
  info.path = parent.empty() ? info.name : absl::StrCat(parent, " ", info.name);
  info.help = app.get_description();
  for (const CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    if (option->get_group().empty()) continue;
    OptionInfo described = Describe(*option);
    (option->get_positional() && !absl::StartsWith(described.names[0], "-") ? info.arguments : info.options)
        .push_back(std::move(described));
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!sub->get_group().empty()) info.commands.push_back(Describe(*sub, info.path));
  }
  return info;
}

}  // namespace

CommandInfo DescribeCommands(const CLI::App& cli) { return Describe(cli, ""); }

}  // namespace finetuned::cli
