#pragma once

#include <functional>
#include <memory>

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

// Each adds its sub-commands to the parser.
void AddRunCommands(CLI::App& cli, App& app);      // run, submit, plan
void AddJobCommands(CLI::App& cli, App& app);      // ls, get, watch, why, logs, cancel, pause, ...
void AddDataCommands(CLI::App& cli, App& app);     // upload, datasets, preview
void AddAdapterCommands(CLI::App& cli, App& app);  // adapters, pull
void AddDaemonCommands(CLI::App& cli, App& app);   // info, doctor, drain

// Prints a message as JSON or YAML.
void PrintMessage(const google::protobuf::Message& message, const std::string& format);

}  // namespace finetuned::cli
