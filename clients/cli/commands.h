#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "clients/cli/client.h"

namespace finetuned::cli {

// What the commands of one invocation share.
struct App {
  ConnectOptions connect;
  std::string output = "table";  // table | json | yaml
  // Set by the chosen command; run after parsing.
  std::function<ExitCode()> action;
};

// Fills `cli` with every command; the chosen one sets app->action. `app` must outlive the parsing.
void BuildParser(CLI::App& cli, App& app);

// Each adds its sub-commands to the parser.
void AddRunCommands(CLI::App& cli, App& app);      // run, submit, plan
void AddJobCommands(CLI::App& cli, App& app);      // get, watch, why, logs, cancel, pause, ...
void AddUpdateCommands(CLI::App& cli, App& app);   // update, hold, release
void AddViewCommands(CLI::App& cli, App& app);     // ls, top, plot
void AddDataCommands(CLI::App& cli, App& app);     // upload, datasets, preview
void AddAdapterCommands(CLI::App& cli, App& app);  // adapters, pull
void AddSampleCommand(CLI::App& cli, App& app);    // sample
void AddDaemonCommands(CLI::App& cli, App& app);   // info, doctor, drain
void AddShellCommands(CLI::App& cli, App& app);    // completion, man

// -o/--output of a command that prints a message: app.output.
void AddOutputOption(CLI::App* command, App& app);

// `words`: what follows `finetune __complete`.
ExitCode PrintCompletion(const std::vector<std::string>& words);

// Prints a message as JSON or YAML.
void PrintMessage(const google::protobuf::Message& message, const std::string& format);

}  // namespace finetuned::cli
