#pragma once

#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/time/time.h"
#include "finetuned/v1/jobs.pb.h"

namespace finetuned::cli {

// Flags of `run`, `submit` and `update` that say when a job may run; those not given change nothing.
struct SchedulingFlags {
  std::optional<int> priority, max_attempts;
  bool hold = false, preemptible = false, not_preemptible = false;
  std::vector<std::string> after;
  std::string not_before, max_run;
};

void AddSchedulingFlags(CLI::App* command, SchedulingFlags* flags);
// Writes what was given into `scheduling`; the answer names the fields, for an update mask ("scheduling.priority").
// Throws CommandError: a time that cannot be read.
std::vector<std::string> ApplyScheduling(const SchedulingFlags& flags, v1::Scheduling* scheduling);

// "2026-12-01T08:00:00+01:00", "2026-12-01 08:00" and "08:00" (this machine's time; the next 08:00), or "+2h30m" from
// `now`. Throws CommandError.
absl::Time ParseWhen(const std::string& text, absl::Time now, absl::TimeZone zone);

}  // namespace finetuned::cli
