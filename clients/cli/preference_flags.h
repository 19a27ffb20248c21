#pragma once

#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "finetuned/v1/spec.pb.h"

namespace finetuned::cli {

// Flags of `run dpo` and `run kto`; unset ones are left to the daemon. All options: a job file.
struct PreferenceFlags {
  std::optional<double> beta, desirable_weight, undesirable_weight;
  double label_smoothing = 0;
  std::vector<std::string> loss_types;
  std::vector<double> loss_weights;
  bool precompute_reference = false, reference_free = false;
};

void AddDpoFlags(CLI::App* command, PreferenceFlags* flags);
void AddKtoFlags(CLI::App* command, PreferenceFlags* flags);
v1::DpoSpec DpoFromFlags(const PreferenceFlags& flags);
v1::KtoSpec KtoFromFlags(const PreferenceFlags& flags);

}  // namespace finetuned::cli
