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
#include "engine/train/export_run.h"
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
  template <typename Run>
  static int InChild(const std::string& failpoint, const std::string& log, const Run& run) {
    const pid_t child = fork();
    if (child == 0) {
      failpoint::Arm(&failpoint::TheState(), failpoint, log);
      parity::Recorder recorder;
      _exit(static_cast<int>(run(recorder).outcome));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }
  int RunOnce(const std::string& state, const std::string& failpoint, const std::string& log = "") {
    return InChild(failpoint, log, [&](parity::Recorder& r) { return RunTraining(Spec(state), r, control_); });
  }
  int ExportOnce(const std::string& state, const std::string& failpoint, const std::string& log = "") {
    job::ExportSpec spec;
    spec.job_name = "test";
    spec.base_model_path = parity::GoldenPath("untied");
    spec.base_model_name = "untied";
    spec.adapter_dir = parity::GoldenPath("untied_adapter");
    spec.state_dir = root_ + "/" + state;
    spec.device = "cpu";
    spec.cpu_threads = 1;
    spec.format = "gguf";
    spec.quantization = "q8_0";
    return InChild(failpoint, log, [&](parity::Recorder& r) { return RunExport(spec, r, control_); });
  }

  // How often each place is passed.
  static std::map<std::string, int> Passed(const std::string& log) {
    std::map<std::string, int> passed;
    std::ifstream in(log);
    for (std::string name; std::getline(in, name);) ++passed[name];
    return passed;
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
  const std::map<std::string, int> passed = Passed(log);
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

// Whenever an export is killed, what lies under its name is whole or is not there; the next attempt starts over and ends
// with the same file.
TEST_F(CrashTest, AKilledExportOffersNoHalfFile) {
  const std::string log = root_ + "/places", file = "/export/model-q8_0.gguf";
  ASSERT_EQ(ExportOnce("calm", "", log), 0);
  const std::string calm = parity::FileBytes(root_ + "/calm" + file);
  const std::map<std::string, int> passed = Passed(log);
  for (const char* place : {"export.tensor_written", "export.written", "export.checked", "export.manifest_written", "files.moved"}) {
    EXPECT_TRUE(passed.contains(place)) << place;
  }
  for (const auto& [name, count] : passed) {
    const std::string state = "stormy-" + name;
    ASSERT_EQ(ExportOnce(state, absl::StrCat(name, ":", 1 + count / 2)), -SIGKILL) << name;
    const std::string folder = root_ + "/" + state + "/export";
    if (std::filesystem::exists(folder)) {
      EXPECT_TRUE(parity::FileBytes(root_ + "/" + state + file) == calm) << name;
      EXPECT_TRUE(std::filesystem::exists(folder + "/export.json")) << name;
    }
    ASSERT_EQ(ExportOnce(state, ""), 0) << name;
    EXPECT_TRUE(parity::FileBytes(root_ + "/" + state + file) == calm) << name;
    for (const auto& entry : std::filesystem::directory_iterator(root_ + "/" + state)) {
      EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp-")) << entry.path() << " is left after " << name;
    }
  }
}

}  // namespace
}  // namespace finetuned::train
