// Rollouts of a GRPO run: state_dir/rollouts/rollout-00000012.json
//   line 1   {"format": "finetuned.rollout", "version": 1, "index": 12, "run": sha256 of the run's identity,
//             "prompts": [...], "group_size": 8, "dropped": [...], "scored": true, "metrics": {...},
//             "completions": [{"tokens": [...], "text": "...", "truncated": false, "scores": [1, null],
//                              "reward": 1, "advantage": 0.5, "old_log_probs": [...]}, ...]}
//   line 2   sha256 of line 1, in hex
// Written as .tmp, synced and renamed: before the scores when they come from outside, and again with them,
// before the first step that trains on them. A run that goes on from a checkpoint uses what it finds, so it
// takes the same steps although rewards need not be repeatable.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/grpo/rollout.h"

namespace finetuned::train {

inline constexpr int kRolloutVersion = 1;

class RolloutJournal {
 public:
  // `run`: what identifies the run; rollouts of another run are not used.
  RolloutJournal(const std::string& state_dir, std::string run);

  // UNAVAILABLE when it cannot be written.
  absl::Status Save(const grpo::Rollout& rollout);
  // Nothing when there is none, or, after a call of `warn`, when it is damaged or of another run.
  std::optional<grpo::Rollout> Load(int64_t index,
                                    const std::function<void(const std::string&)>& warn) const;
  // Removes those before `first_needed`.
  void Prune(int64_t first_needed);

 private:
  std::string Path(int64_t index) const;

  const std::string folder_;
  const std::string run_;
};

}  // namespace finetuned::train
