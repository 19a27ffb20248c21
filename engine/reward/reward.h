#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// Rewards that are computed here, without a model and without the user's code. Every one takes time
// linear in the completion: patterns are RE2's, which do not backtrack, JSON has limits.
namespace finetuned::reward {

// Longer completions get no score.
inline constexpr size_t kMaxCompletionBytes = 1 << 20;
inline constexpr size_t kMaxArgumentBytes = 64 << 10;

// One completion to be scored. What it points to must outlive the call.
struct Item {
  std::string_view completion;
  int64_t tokens = 0;                                           // its length, without the end token
  bool truncated = false;                                       // it hit the token limit
  const std::map<std::string, std::string>* columns = nullptr;  // of its row, as text
};

// A score, or the word that there is none: an abstention counts neither for nor against the
// completion.
struct Score {
  double value = std::numeric_limits<double>::quiet_NaN();
  std::string abstained;  // why there is no value; empty: value is finite

  static Score Abstain(std::string why) {
    return {std::numeric_limits<double>::quiet_NaN(), std::move(why)};
  }
};

// Immutable, thread safe.
class Reward {
 public:
  virtual ~Reward() = default;
  virtual Score Evaluate(const Item& item) const = 0;
  // Columns of the row it reads.
  virtual std::vector<std::string> columns() const { return {}; }
};

// The built-in rewards and what they take (docs/grpo.md):
//   exact        column (answer), pattern, ignore_case (false)   1 when the texts are equal, else 0
//   numeric      column (answer), pattern, tolerance (1e-6)      1 when the numbers are equal, else
//   0 regex        pattern, full_match (false)                     1 when it matches, else 0
//   json_schema  schema ({}), fenced (false)                     1 for JSON that fits, else 0
//   length       min, max, unit (tokens), slack (0)              1 inside, falling to 0 over
//   `slack` format       style (think)                                   1 for the tags in order,
//   else 0
// INVALID_ARGUMENT names the reward or argument at fault, with the nearest known name.
absl::StatusOr<std::unique_ptr<Reward>> MakeReward(const std::string& name,
                                                   const std::map<std::string, std::string>& args);

const std::vector<std::string>& RewardNames();

}  // namespace finetuned::reward
