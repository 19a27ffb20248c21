#pragma once

#include <string>

#include "clients/cli/command_tree.h"

namespace finetuned::cli {

// finetune(1) in man(7) macros.
std::string ManPage(const CommandInfo& root, const std::string& version);

}  // namespace finetuned::cli
