#pragma once

#include <string>

#include "clients/cli/client.h"
#include "clients/cli/commands.h"

namespace finetuned::cli {

// "adapters/x" for an adapter, or the output of job x. Throws CommandError when it has none yet.
std::string FindAdapter(const Client& client, const std::string& id);

// Downloads every file of an adapter or export into `to` (created), going on where an earlier download stopped; sizes and
// checksums are compared. Throws CommandError. Returns what the daemon says of it.
v1::Adapter DownloadAdapter(const Client& client, const std::string& name, const std::string& to);

// Adds export and eval to the parser.
void AddExportCommands(CLI::App& cli, App& app);

}  // namespace finetuned::cli
