#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "finetuned/v1/spec.pb.h"

namespace finetuned::cli {

// Flags of `run grpo` beside those of every run; unset ones are left to the daemon.
struct GrpoFlags {
  std::vector<std::string> rewards, remote_rewards, stop;
  std::string loss_type, system_prompt;
  int group_size = 0, max_completion_tokens = 0, updates = 0;
  double beta = -1, temperature = 0;
  bool mask_truncated = false;
};

void AddGrpoFlags(CLI::App* command, GrpoFlags* flags);

// Throws CommandError (usage) for a --reward that is not NAME[*WEIGHT][:KEY=VALUE[;KEY=VALUE...]].
void FillGrpo(const GrpoFlags& flags, v1::GrpoSpec* spec);

}  // namespace finetuned::cli
