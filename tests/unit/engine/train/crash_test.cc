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
#include "tests/unit/engine/train/run_testing.h"

namespace finetuned::train {
namespace {

class CrashTest : public RunFixture {
 protected:
  CrashTest() {
    WriteRows("rows.jsonl", 6, [](int i) {
      return absl::StrCat("{\"prompt\": \"question ", i, " is\", \"completion\": \" answer ", i, "\"}");
    });
  }

  job::TrainSpec Spec(const std::string& state) const {
    job::TrainSpec spec = TinySpec(state);
    spec.lora.rank = 4;
    spec.lora.dropout = 0.1;
    spec.schedule.max_steps = 5;
    spec.schedule.max_seq_length = 64;
    spec.checkpoints.every_steps = 2;
    spec.checkpoints.keep_last = 1;
    spec.deterministic = true;
    return spec;
  }

  // The exit code of a run with these failpoints; -9: it was killed.
  int RunOnce(const std::string& state, const std::string& failpoint, const std::string& log = "") {
    const pid_t child = fork();
    if (child == 0) {
      failpoint::Arm(&failpoint::TheState(), failpoint, log);
      parity::Recorder recorder;
      _exit(static_cast<int>(RunTraining(Spec(state), recorder, control_).outcome));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }

  // Killed at one place after another, each by the next process.
  void SurvivesKillsAt(const std::vector<std::string>& places, const std::string& undisturbed) {
    std::filesystem::remove_all(root_ + "/stormy");
    for (const std::string& place : places) ASSERT_EQ(RunOnce("stormy", place), -SIGKILL) << place;
    ASSERT_EQ(RunOnce("stormy", ""), 0) << places.back();
    EXPECT_EQ(AdapterBytes("stormy") == undisturbed, true) << "another adapter after a kill at " << places.back();
  }
};

TEST_F(CrashTest, KilledAnywhereARunEndsWithTheSameAdapter) {
  const std::string log = root_ + "/places";
  ASSERT_EQ(RunOnce("calm", "", log), 0);
  std::map<std::string, int> passed;
  std::ifstream in(log);
  for (std::string name; std::getline(in, name);) ++passed[name];
  EXPECT_GE(passed.size(), 24u);
  const std::string calm = AdapterBytes("calm");
  ASSERT_FALSE(calm.empty());
  for (const auto& [name, count] : passed) {
    SurvivesKillsAt({absl::StrCat(name, ":", 1 + count / 2)}, calm);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CrashTest, KilledWhileItClearsUpAfterAKill) {
  ASSERT_EQ(RunOnce("calm", ""), 0);
  const std::string calm = AdapterBytes("calm");
  SurvivesKillsAt({"files.temporary_synced", "files.leftover_removed"}, calm);
  SurvivesKillsAt({"trainer.exported", "files.old_aside", "files.old_restored"}, calm);
}

}  // namespace
}  // namespace finetuned::train
