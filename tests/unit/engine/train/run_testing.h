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

  const std::string root_;
  job::RunControl control_;

 private:
  static std::string Name() {
    const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
    return std::string(test.test_suite_name()) + "_" + test.name();
  }
};

}  // namespace finetuned::train
