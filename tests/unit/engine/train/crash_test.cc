// A run that is killed at each named place of the engine (engine/job/failpoint.h) and started again ends with the very
// adapter of an undisturbed one. Each run is a child process of this one, which itself never touches the engine.
#include <sys/wait.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "engine/job/failpoint.h"
#include "engine/train/run.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::train {
namespace {

class CrashTest : public testing::Test {
 protected:
  CrashTest()
      : root_(parity::NewTemporaryDirectory(std::string("crash_") +
                                            testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::ofstream out(root_ + "/rows.jsonl");
    for (int i = 0; i < 6; ++i) {
      out << "{\"prompt\": \"question " << i << " is\", \"completion\": \" answer " << i << "\"}\n";
    }
  }

  job::TrainSpec Spec(const std::string& state) const {
    job::TrainSpec spec;
    spec.job_name = "test";
    spec.base_model_path = parity::GoldenPath("untied");
    spec.dataset_path = root_ + "/rows.jsonl";
    spec.state_dir = root_ + "/" + state;
    spec.lora.rank = 4;
    spec.lora.dropout = 0.1;
    spec.schedule.max_steps = 5;
    spec.schedule.max_seq_length = 64;
    spec.checkpoints.every_steps = 2;
    spec.checkpoints.keep_last = 1;
    spec.deterministic = true;
    spec.cpu_threads = 1;
    return spec;
  }

  // The exit code of a run with these failpoints; -9: it was killed.
  int RunOnce(const std::string& state, const std::string& failpoint, const std::string& log = "") const {
    const pid_t child = fork();
    if (child == 0) {
      failpoint::Arm(&failpoint::TheState(), failpoint, log);
      parity::Recorder recorder;
      job::RunControl control;
      _exit(static_cast<int>(RunTraining(Spec(state), recorder, control).outcome));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }

  std::string Adapter(const std::string& state) const {
    return parity::FileBytes(root_ + "/" + state + "/adapter/adapter_model.safetensors");
  }

  // Killed at one place after another, each by the next process.
  void SurvivesKillsAt(const std::vector<std::string>& places, const std::string& undisturbed) {
    std::filesystem::remove_all(root_ + "/stormy");
    for (const std::string& place : places) ASSERT_EQ(RunOnce("stormy", place), -SIGKILL) << place;
    ASSERT_EQ(RunOnce("stormy", ""), 0) << places.back();
    EXPECT_EQ(Adapter("stormy") == undisturbed, true) << "another adapter after a kill at " << places.back();
  }

  const std::string root_;
};

TEST_F(CrashTest, KilledAnywhereARunEndsWithTheSameAdapter) {
  const std::string log = root_ + "/places";
  ASSERT_EQ(RunOnce("calm", "", log), 0);
  std::map<std::string, int> passed;
  std::ifstream in(log);
  for (std::string name; std::getline(in, name);) ++passed[name];
  EXPECT_GE(passed.size(), 24u);
  const std::string calm = Adapter("calm");
  ASSERT_FALSE(calm.empty());
  for (const auto& [name, count] : passed) {
    SurvivesKillsAt({absl::StrCat(name, ":", 1 + count / 2)}, calm);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CrashTest, KilledWhileItClearsUpAfterAKill) {
  ASSERT_EQ(RunOnce("calm", ""), 0);
  const std::string calm = Adapter("calm");
  SurvivesKillsAt({"files.temporary_synced", "files.leftover_removed"}, calm);
  SurvivesKillsAt({"trainer.exported", "files.old_aside", "files.old_restored"}, calm);
}

}  // namespace
}  // namespace finetuned::train
