// What the tests of whole runs share: the tiny golden model on the CPU, and a folder of their own.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>

#include "engine/train/run.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::train {

class RunFixture : public testing::Test {
 protected:
  RunFixture() : root_(parity::NewTemporaryDirectory(Name())) {}

  // `count` lines of a file in the folder.
  void WriteRows(const std::string& name, int count, const std::function<std::string(int)>& row) const {
    std::ofstream out(root_ + "/" + name);
    for (int i = 0; i < count; ++i) out << row(i) << "\n";
  }

  // A run of one thread over the rows of rows.jsonl. The CPU, whatever else there is: what is expected is its bytes.
  job::TrainSpec TinySpec(const std::string& state) const {
    job::TrainSpec spec;
    spec.job_name = "test";
    spec.base_model_path = parity::GoldenPath("untied");
    spec.base_model_name = "untied";
    spec.dataset_path = root_ + "/rows.jsonl";
    spec.state_dir = root_ + "/" + state;
    spec.device = "cpu";
    spec.cpu_threads = 1;
    return spec;
  }

  std::string AdapterBytes(const std::string& state) const {
    return parity::FileBytes(root_ + "/" + state + "/adapter/adapter_model.safetensors");
  }

  // With evaluations that never count as better, two are waited for; the adapter exported is the best one's all the same.
  // REQUIRES: spec has held-out rows and changes its metric from step to step.
  void ExpectStopsEarlyWithTheBestAdapter(job::TrainSpec spec, const std::string& metric, bool larger) {
    spec.schedule.max_steps = 10;
    spec.evaluation.every_steps = 1;
    spec.evaluation.early_stopping_patience = 2;
    spec.evaluation.early_stopping_min_delta = 1e9;
    spec.checkpoints.keep_best = true;
    spec.checkpoints.best_metric = metric;
    parity::Recorder recorder;
    const job::RunResult result = RunTraining(spec, recorder, control_);
    ASSERT_EQ(result.outcome, job::Outcome::kDone) << result.message;
    EXPECT_EQ(result.last_step, 3);
    ASSERT_EQ(recorder.evals.size(), 3u);
    size_t best = 0;
    for (size_t i = 1; i < 3; ++i) {
      const double gain = recorder.evals[i].at(metric) - recorder.evals[best].at(metric);
      if (larger ? gain > 0 : gain < 0) best = i;
    }
    const std::string checkpoint = spec.state_dir + "/checkpoints/step-0000000" + std::to_string(best + 1);
    EXPECT_EQ(parity::FileBytes(result.adapter_dir + "/adapter_model.safetensors"),
              parity::FileBytes(checkpoint + "/adapter_model.safetensors"))
        << "not the adapter of step " << best + 1;
  }

  const std::string root_;
  job::RunControl control_;

 private:
  static std::string Name() {
    const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
    return std::string(test.test_suite_name()) + "_" + test.name();
  }
};

}  // namespace finetuned::train
