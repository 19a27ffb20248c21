#include "engine/grpo/rollout_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace finetuned::grpo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ScheduleOptions Options() {
  ScheduleOptions o;
  o.prompts = 10;
  o.group_size = 4;
  o.prompts_per_rollout = 4;
  o.micro_batch_size = 2;
  o.accumulation = 4;
  o.updates_per_rollout = 3;
  return o;
}

TEST(RolloutSchedule, CountsStepsAndRollouts) {
  const RolloutSchedule schedule(Options());  // 16 completions, 8 a step: 2 windows, 3 times
  EXPECT_EQ(schedule.steps_per_rollout(), 6);
  EXPECT_EQ(schedule.steps_per_epoch(), 12) << "2 prompts fill no rollout";
  EXPECT_EQ(schedule.RolloutOf(6), 0);
  EXPECT_EQ(schedule.RolloutOf(7), 1);
  EXPECT_EQ(schedule.FirstStepOf(1), 7);
}

TEST(RolloutSchedule, AnEpochVisitsAPromptAtMostOnceInItsOwnOrder) {
  const RolloutSchedule schedule(Options());
  std::set<int64_t> seen;
  for (int64_t rollout : {0, 1}) {
    for (int64_t prompt : schedule.PromptsOf(rollout)) EXPECT_TRUE(seen.insert(prompt).second);
  }
  EXPECT_NE(schedule.PromptsOf(0), schedule.PromptsOf(2));
  ScheduleOptions in_order = Options();
  in_order.shuffle = false;
  EXPECT_THAT(RolloutSchedule(in_order).PromptsOf(3), ElementsAre(4, 5, 6, 7));
}

TEST(RolloutSchedule, EveryUpdateGoesThroughAllCompletionsOnce) {
  const RolloutSchedule schedule(Options());
  for (int64_t update = 0; update < 3; ++update) {
    std::vector<int64_t> all;
    for (int64_t window = 0; window < 2; ++window) {
      const auto batches = schedule.MicroBatchesOf(1 + update * 2 + window);
      EXPECT_EQ(batches.size(), 4u);
      for (const auto& batch : batches) all.insert(all.end(), batch.begin(), batch.end());
    }
    std::sort(all.begin(), all.end());
    std::vector<int64_t> wanted(16);
    std::iota(wanted.begin(), wanted.end(), 0);
    EXPECT_EQ(all, wanted);
  }
}

TEST(RolloutSchedule, CompletionsOfAGroupStayTogether) {
  ScheduleOptions o = Options();
  o.prompts = o.prompts_per_rollout = 32;
  o.micro_batch_size = 8;
  std::vector<int64_t> groups;
  const RolloutSchedule schedule(o);
  for (int64_t step = 1; step <= schedule.steps_per_rollout() / o.updates_per_rollout; ++step) {
    for (const auto& batch : schedule.MicroBatchesOf(step)) {
      for (size_t i = 0; i < batch.size(); i += 4) {
        EXPECT_THAT(std::vector<int64_t>(batch.begin() + i, batch.begin() + i + 4),
                    ElementsAre(batch[i], batch[i] + 1, batch[i] + 2, batch[i] + 3));
        groups.push_back(batch[i] / 4);
      }
    }
  }
  EXPECT_EQ(groups.size(), 32u);
  EXPECT_FALSE(std::is_sorted(groups.begin(), groups.end())) << "groups come in file order";
}

TEST(RolloutSchedule, SaysWhichNumbersDoNotFit) {
  ScheduleOptions o = Options();
  o.prompts_per_rollout = 3;
  EXPECT_THAT(std::string(RolloutSchedule::Check(o).message()), HasSubstr("3 groups of 4 do not fill"));
  o.prompts_per_rollout = 0;
  o.group_size = 3;
  EXPECT_THAT(std::string(RolloutSchedule::Check(o).message()), HasSubstr("not a multiple of the group of 3"));
  o = Options();
  o.prompts = 3;
  EXPECT_THAT(std::string(RolloutSchedule::Check(o).message()), HasSubstr("the dataset has 3"));
}

}  // namespace
}  // namespace finetuned::grpo
