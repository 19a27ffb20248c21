// Rewards: the first byte chooses one; then its arguments (schema, pattern) and behind a zero byte the completion.
#include <cmath>

#include "engine/reward/json_schema.h"
#include "engine/reward/reward.h"
#include "fuzzing.h"

namespace {

using namespace finetuned;

std::map<std::string, std::string> Arguments(const std::string& reward, uint8_t choice, std::string_view text) {
  const std::string argument(text);
  if (reward == "json_schema") return {{"schema", argument}, {"fenced", choice & 64 ? "true" : "false"}};
  if (reward == "regex") return {{"pattern", argument}, {"full_match", choice & 64 ? "true" : "false"}};
  if (reward == "exact" || reward == "numeric") return {{"pattern", argument}};
  if (reward == "length") return {{"min", argument}, {"max", "100"}, {"unit", choice & 64 ? "characters" : "words"}};
  return argument.empty() ? std::map<std::string, std::string>() : std::map<std::string, std::string>{{"style", argument}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto& names = reward::RewardNames();
  const std::string& name = names[data[0] % names.size()];
  const auto [argument, completion] = fuzz::SplitAtZero(fuzz::AsText(data + 1, size - 1));
  const auto made = reward::MakeReward(name, Arguments(name, data[0], argument));
  if (!made.ok()) return 0;
  const std::map<std::string, std::string> columns = {{"answer", "1,234.5"}};
  reward::Item item;
  item.completion = completion;
  item.tokens = static_cast<int64_t>(completion.size());
  item.columns = &columns;
  const reward::Score score = (*made)->Evaluate(item);
  fuzz::Require(std::isfinite(score.value) == score.abstained.empty(), "a score is a number, or says why not");
  fuzz::Require(!std::isfinite(score.value) || (score.value >= 0 && score.value <= 1), "a score is in [0, 1]");
  return 0;
}
