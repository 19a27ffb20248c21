#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/reward/reward.h"

// Makers of the rewards, behind MakeReward.
namespace finetuned::reward {

using Args = std::map<std::string, std::string>;
using MadeReward = absl::StatusOr<std::unique_ptr<Reward>>;

MadeReward MakeExact(const Args& args);
MadeReward MakeNumeric(const Args& args);
MadeReward MakeRegex(const Args& args);
MadeReward MakeJsonSchema(const Args& args);
MadeReward MakeLength(const Args& args);
MadeReward MakeFormat(const Args& args);

}  // namespace finetuned::reward
