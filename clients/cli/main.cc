#include <iostream>

#include "clients/cli/commands.h"
#include "proto/spec/nearest.h"

namespace finetuned::cli {
namespace {

// The first word when it is no command, and what was probably meant; "" when a command was given, or none at all.
std::string UnknownCommand(const CLI::App& cli) {
  const std::vector<std::string> left = cli.remaining();
  if (left.empty() || left.front().front() == '-' || !cli.get_subcommands().empty()) return "";
  std::vector<std::string> known;
  for (const CLI::App* command : cli.get_subcommands([](const CLI::App*) { return true; })) {
    known.push_back(command->get_name());
  }
  const std::string near = spec::Nearest(left.front(), known);
  return "finetune: unknown command " + left.front() +
         (near.empty() ? "\n  see what there is: finetune --help" : "\n  did you mean: finetune " + near);
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "__complete") return PrintCompletion({argv + 2, argv + argc});
  CLI::App cli{"", "finetune"};
  App app;
  BuildParser(cli, app);
  try {
    cli.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const std::string unknown = UnknownCommand(cli);
    if (!unknown.empty()) {
      std::cerr << unknown << "\n";
      return kUsage;
    }
    return cli.exit(e) == 0 ? kOk : kUsage;  // 0: --help, --version
  }
  try {
    return app.action();
  } catch (const CommandError& e) {
    std::cerr << "finetune: " << e.message << "\n";
    return e.code;
  } catch (const std::exception& e) {
    std::cerr << "finetune: " << e.what() << "\n";
    return kFailed;
  }
}

}  // namespace
}  // namespace finetuned::cli

int main(int argc, char** argv) { return finetuned::cli::Main(argc, argv); }
