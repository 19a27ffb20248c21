#include <iostream>

#include "clients/cli/commands.h"
#include "proto/spec/nearest.h"

namespace finetuned::cli {
namespace {

// What was probably meant by the first word that is no command; "" when nothing is near.
std::string NearestCommand(const CLI::App& cli) {
  const std::vector<std::string> left = cli.remaining();
  if (left.empty() || !cli.get_subcommands().empty()) return "";
  std::vector<std::string> known;
  for (const CLI::App* command : cli.get_subcommands([](const CLI::App*) { return true; })) {
    known.push_back(command->get_name());
  }
  return spec::Nearest(left.front(), known);
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "__complete") return PrintCompletion({argv + 2, argv + argc});
  CLI::App cli{"", "finetune"};
  App app;
  BuildParser(cli, app);
  try {
    cli.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const std::string near = NearestCommand(cli);
    if (!near.empty()) {
      std::cerr << "finetune: unknown command " << cli.remaining().front() << "\n  did you mean: finetune " << near << "\n";
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
