// Runs whose device memory is taken away while they go.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "engine/train/device.h"
#include "tests/unit/engine/train/run_testing.h"

namespace finetuned::train {
namespace {

using job::Outcome;
using parity::Recorder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// Has no memory for the passes that `fails` names, counted from 0.
class TakenMemory : public DeviceMemory {
 public:
  explicit TakenMemory(std::function<bool(int64_t pass)> fails, int64_t available = 0)
      : fails_(std::move(fails)), available_(available) {}
  int64_t Available(const at::Device&) const override { return available_; }
  void BeforePass() override {
    TORCH_CHECK_WITH(OutOfMemoryError, !fails_(passes_++), "CUDA out of memory. Tried to allocate 2 GiB");
  }

 private:
  const std::function<bool(int64_t)> fails_;
  const int64_t available_;
  int64_t passes_ = 0;
};

// The probe is pass 0; then 11 rows make 6 micro-batches, 3 steps an epoch, 9 steps.
class OutOfMemoryTest : public RunFixture {
 protected:
  OutOfMemoryTest() {
    WriteRows("rows.jsonl", 11, [](int i) {
      return absl::StrCat("{\"prompt\": \"question ", i, " is\", \"completion\": \" answer ",
                          std::string(3 + i % 5, static_cast<char>('a' + i)), "\"}");
    });
  }

  job::TrainSpec Spec(const std::string& state) const {
    job::TrainSpec spec = TinySpec(state);
    spec.lora.rank = 8;
    spec.optimizer.learning_rate = 2e-3;
    spec.schedule.micro_batch_size = 2;
    spec.schedule.gradient_accumulation_steps = 2;
    spec.schedule.max_seq_length = 128;
    return spec;
  }

  job::RunResult Go(const job::TrainSpec& spec, Recorder* recorder, DeviceMemory* memory = nullptr) {
    return RunTraining(spec, *recorder, control_, nullptr, memory);
  }

  static void ExpectSameSteps(const Recorder& a, const Recorder& b) {
    ASSERT_EQ(a.steps.size(), b.steps.size());
    for (size_t i = 0; i < a.steps.size(); ++i) {
      EXPECT_NEAR(a.steps[i].at("loss"), b.steps[i].at("loss"), 2e-4) << i;
      EXPECT_EQ(a.steps[i].at("num_tokens"), b.steps[i].at("num_tokens")) << i;
    }
  }
};

TEST_F(OutOfMemoryTest, StepGoesOnWithRecomputeAndEndsWithTheSameBytes) {
  Recorder whole, disturbed;
  ASSERT_EQ(Go(Spec("whole"), &whole).outcome, Outcome::kDone);
  TakenMemory memory([](int64_t pass) { return pass == 4; });  // the second half of step 2
  const job::RunResult result = Go(Spec("disturbed"), &disturbed, &memory);
  ASSERT_EQ(result.outcome, Outcome::kDone) << result.message;
  ASSERT_EQ(disturbed.warnings.size(), 1u);
  EXPECT_THAT(disturbed.warnings[0], HasSubstr("REPLANNED: the plan of "));
  EXPECT_THAT(disturbed.warnings[0], HasSubstr("Going on after step 1 with activation_checkpointing off -> on: "));
  EXPECT_LT(disturbed.steps[2].at("memory_planned_bytes"), disturbed.steps[0].at("memory_planned_bytes"));
  ExpectSameSteps(whole, disturbed);
  EXPECT_EQ(AdapterBytes("whole"), AdapterBytes("disturbed"));
}

// The allocator is capped to the plan: a step that takes more fails before another process' memory is gone, and goes
// on as it was where the device has the room.
TEST_F(OutOfMemoryTest, APlanThatWasTooLowIsToldAndExceeded) {
  Recorder whole, exceeded;
  ASSERT_EQ(Go(Spec("whole"), &whole).outcome, Outcome::kDone);
  TakenMemory memory([](int64_t pass) { return pass == 4; }, int64_t{64} << 30);
  ASSERT_EQ(Go(Spec("exceeded"), &exceeded, &memory).outcome, Outcome::kDone);
  EXPECT_THAT(exceeded.warnings, ElementsAre(AllOf(HasSubstr("PLAN_EXCEEDED: the plan of "),
                                                   HasSubstr("goes on after step 1 with up to 69.3 GB"))));
  EXPECT_EQ(exceeded.steps[2].at("memory_planned_bytes"), exceeded.steps[0].at("memory_planned_bytes"));
  EXPECT_EQ(AdapterBytes("whole"), AdapterBytes("exceeded"));
}

TEST_F(OutOfMemoryTest, TheLimitOfTheJobIsNeverExceeded) {
  job::TrainSpec spec = Spec("s");
  spec.memory_limit_bytes = plan::DeviceConstants().cpu_process_bytes + 1;
  Recorder recorder;
  TakenMemory memory([](int64_t pass) { return pass == 4; }, int64_t{64} << 30);
  const job::RunResult left = Go(spec, &recorder, &memory);
  EXPECT_EQ(left.outcome, Outcome::kCheckpointed);
  EXPECT_THAT(recorder.warnings, testing::IsEmpty());
  EXPECT_THAT(left.message, HasSubstr("0.6 GB are left"));
  EXPECT_THAT(left.message, HasSubstr("that is all the job may take"));
}

TEST_F(OutOfMemoryTest, SmallerMicroBatchesMakeTheSameSteps) {
  job::TrainSpec spec = Spec("whole");
  spec.activation_checkpointing = true;
  Recorder whole, disturbed, resumed;
  ASSERT_EQ(Go(spec, &whole).outcome, Outcome::kDone);
  // In the last window of an epoch, which is shorter; the checkpoint after it is resumed with the spec's own plan.
  spec.state_dir = root_ + "/disturbed";
  spec.checkpoints.every_steps = 4;
  TakenMemory memory([](int64_t pass) { return pass == 6 || pass >= 18; });
  const job::RunResult left = Go(spec, &disturbed, &memory);
  EXPECT_THAT(disturbed.warnings, ElementsAre(HasSubstr("micro_batch_size 2 -> 1 with gradient_accumulation_steps 2 -> 4")));
  EXPECT_EQ(left.outcome, Outcome::kCheckpointed);
  EXPECT_EQ(left.reason, "OUT_OF_DEVICE_MEMORY");
  ASSERT_EQ(Go(spec, &resumed).outcome, Outcome::kDone);
  EXPECT_EQ(resumed.first_step, left.last_step);
  EXPECT_GT(left.last_step, 3);
  disturbed.steps.insert(disturbed.steps.end(), resumed.steps.begin(), resumed.steps.end());
  ExpectSameSteps(whole, disturbed);
}

TEST_F(OutOfMemoryTest, NothingSmallerLeavesWithACheckpointThatResumes) {
  job::TrainSpec spec = Spec("whole");
  spec.activation_checkpointing = true;
  spec.schedule.micro_batch_size = 1;
  Recorder whole, first, second;
  ASSERT_EQ(Go(spec, &whole).outcome, Outcome::kDone);
  spec.state_dir = root_ + "/parts";
  TakenMemory memory([](int64_t pass) { return pass > 7; });
  const job::RunResult left = Go(spec, &first, &memory);
  EXPECT_EQ(left.outcome, Outcome::kCheckpointed);
  EXPECT_EQ(left.reason, "OUT_OF_DEVICE_MEMORY");
  EXPECT_THAT(left.message, HasSubstr("another process holds its memory; resume the job when that has ended"));
  EXPECT_EQ(left.last_step, 3);
  ASSERT_EQ(Go(spec, &second).outcome, Outcome::kDone);
  EXPECT_EQ(second.first_step, 3);
  EXPECT_EQ(AdapterBytes("whole"), AdapterBytes("parts"));
}

TEST_F(OutOfMemoryTest, ProbeGoesThroughThePlansBeforeTheFirstStep) {
  Recorder recorder;
  // Two rows are too many, whatever is kept: two plans are passed over before the first step.
  TakenMemory memory([](int64_t pass) { return pass < 2; });
  ASSERT_EQ(Go(Spec("s"), &recorder, &memory).outcome, Outcome::kDone);
  ASSERT_EQ(recorder.warnings.size(), 2u);
  EXPECT_THAT(recorder.warnings[1], HasSubstr("Going on after step 0 with micro_batch_size 2 -> 1"));
  EXPECT_EQ(recorder.steps.size(), 9u);
}

}  // namespace
}  // namespace finetuned::train
