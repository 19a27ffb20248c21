#include "engine/worker/device_measurement.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace finetuned::worker {
namespace {

class MeasuredOnceTest : public testing::Test {
 protected:
  MeasuredOnceTest() {
    std::string pattern = testing::TempDir() + "/measurement_XXXXXX";
    path_ = std::string(mkdtemp(pattern.data())) + "/device.json";
    device_.name = "cuda:0 NVIDIA GeForce RTX 3090";
    device_.driver_version = "580.1";
    device_.cuda_version = "13.0";
    device_.libtorch_version = "2.11.0";
  }
  std::optional<plan::DeviceConstants> Get() {
    return MeasuredOnce(path_, device_, [this]() -> std::optional<plan::DeviceConstants> {
      ++measured_;
      if (!possible_) return std::nullopt;
      plan::DeviceConstants c;
      c.context_bytes = 400'000'000 + measured_;
      c.workspace_bytes = 9'000'000;
      return c;
    });
  }

  std::string path_;
  DeviceInfo device_;
  int measured_ = 0;
  bool possible_ = true;
};

TEST_F(MeasuredOnceTest, IsKept) {
  const auto first = Get(), second = Get();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(measured_, 1);
  EXPECT_EQ(second->context_bytes, first->context_bytes);
  EXPECT_EQ(second->workspace_bytes, 9'000'000);
}

TEST_F(MeasuredOnceTest, IsDoneAgainForAnotherDeviceOrVersion) {
  for (std::string* part : {&device_.name, &device_.driver_version, &device_.cuda_version, &device_.libtorch_version}) {
    Get();
    const int before = measured_;
    *part += "x";
    EXPECT_TRUE(Get().has_value());
    EXPECT_EQ(measured_, before + 1);
  }
}

TEST_F(MeasuredOnceTest, DamagedFilesAreAsGoodAsNone) {
  for (const char* text : {"", "{", "[]", "{\"key\": 1}", "{\"context_bytes\": 5}"}) {
    std::ofstream(path_) << text;
    const int before = measured_;
    EXPECT_TRUE(Get().has_value()) << text;
    EXPECT_EQ(measured_, before + 1) << text;
  }
}

TEST_F(MeasuredOnceTest, FailuresAreNotKept) {
  possible_ = false;
  EXPECT_FALSE(Get().has_value());
  EXPECT_FALSE(std::filesystem::exists(path_));
  possible_ = true;
  EXPECT_TRUE(Get().has_value());
}

TEST_F(MeasuredOnceTest, NeitherTheCpuNorNoFileMeasures) {
  device_.name = "cpu";
  EXPECT_FALSE(Get().has_value());
  device_.name = "cuda:0 X";
  path_.clear();
  EXPECT_FALSE(Get().has_value());
  EXPECT_EQ(measured_, 0);
}

}  // namespace
}  // namespace finetuned::worker
