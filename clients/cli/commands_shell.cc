#include <cstdlib>
#include <iostream>

#include "clients/cli/commands.h"
#include "clients/cli/completion.h"
#include "clients/cli/man_page.h"

namespace finetuned::cli {
namespace {

constexpr double kLookupSeconds = 1;  // a TAB waits at most this long

// Names of a collection without their prefix; throws CommandError when nobody answers.
std::vector<std::string> Names(const Client& client, const std::string& collection) {
  std::vector<std::string> names;
  auto context = client.Context(kLookupSeconds);
  if (collection == "jobs") {
    v1::ListJobsRequest request;
    request.set_page_size(100);
    v1::ListJobsResponse response;
    Check(client.jobs->ListJobs(context.get(), request, &response), client);
    for (const auto& job : response.jobs()) names.push_back(ShortName(job.name()));
  } else if (collection == "models") {
    v1::ServerInfo info;
    Check(client.daemon->GetServerInfo(context.get(), {}, &info), client);
    for (const auto& model : info.models()) names.push_back(ShortName(model.name()));
  } else if (collection == "datasets") {
    v1::ListDatasetsResponse response;
    Check(client.datasets->ListDatasets(context.get(), {}, &response), client);
    for (const auto& dataset : response.datasets()) names.push_back(ShortName(dataset.name()));
  } else {
    v1::ListAdaptersResponse response;
    Check(client.adapters->ListAdapters(context.get(), {}, &response), client);
    for (const auto& adapter : response.adapters()) names.push_back(ShortName(adapter.name()));
  }
  return names;
}

CommandInfo CommandTree() {
  CLI::App cli{"", "finetune"};
  App app;
  BuildParser(cli, app);
  return DescribeCommands(cli);
}

}  // namespace

ExitCode PrintCompletion(const std::vector<std::string>& words) {
  ConnectOptions connect;
  connect.server = OptionValue(words, "--server");
  if (const char* server = std::getenv("FINETUNED_SERVER"); server != nullptr && connect.server.empty()) {
    connect.server = server;
  }
  connect.token_file = OptionValue(words, "--token-file");
  connect.ca_file = OptionValue(words, "--ca");
  const NameLookup lookup = [&](const std::string& collection) -> std::vector<std::string> {
    try {
      return Names(Client(connect), collection);
    } catch (const CommandError&) {
      return {};  // completing names is a convenience; the command itself tells what is wrong
    }
  };
  std::cout << CompletionText(Complete(CommandTree(), words, lookup));
  return kOk;
}

void AddShellCommands(CLI::App& cli, App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* completion = cli.add_subcommand("completion", "Script that teaches a shell to complete finetune");
  completion->add_option("shell", *shell, "bash, zsh or fish: source <(finetune completion bash)")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->callback([&app, shell] {
    app.action = [shell] {
      std::cout << CompletionScript(*shell);
      return kOk;
    };
  });

  CLI::App* man = cli.add_subcommand("man", "The manual page: finetune man | man -l -");
  man->callback([&app] {
    app.action = [] {
      std::cout << ManPage(CommandTree(), FINETUNED_VERSION);
      return kOk;
    };
  });
}

}  // namespace finetuned::cli
