#include "server/metrics/nvml.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "server/metrics/metrics.h"
#include "tests/unit/server/metrics/fake_nvml.h"

namespace finetuned::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class NvmlTest : public ::testing::Test {
 protected:
  NvmlTest() : handle_(dlopen(FAKE_NVML, RTLD_NOW)) {
    gpu_ = reinterpret_cast<FakeGpu* (*)()>(dlsym(handle_, "FakeNvmlGpu"))();
    *gpu_ = {};
  }
  ~NvmlTest() override { dlclose(handle_); }

  void* handle_;
  FakeGpu* gpu_;
};

TEST_F(NvmlTest, ReadsEveryFieldInBaseUnits) {
  auto nvml = Nvml::Open(FAKE_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  const auto gpus = (*nvml)->Read();
  ASSERT_EQ(gpus.size(), 1u);
  EXPECT_EQ(gpus[0].product, "NVIDIA GeForce RTX 3090");
  EXPECT_EQ(gpus[0].driver, "580.95.05");
  EXPECT_EQ(gpus[0].uuid, "GPU-fake");
  EXPECT_EQ(gpus[0].memory_total_bytes, 24.0 * (1 << 30));
  EXPECT_EQ(gpus[0].memory_used_bytes, 10.0 * (1 << 30));
  EXPECT_DOUBLE_EQ(*gpus[0].utilization_ratio, 0.97);
  EXPECT_DOUBLE_EQ(*gpus[0].energy_joules, 1500);
  EXPECT_DOUBLE_EQ(*gpus[0].power_limit_watts, 350);
  EXPECT_EQ(gpus[0].temperature_celsius, 71);
  EXPECT_EQ(gpus[0].sm_clock_hertz, 1.695e9);
  EXPECT_EQ(gpus[0].throttle_seconds, (std::map<std::string, double>{{"thermal", 2.5}}));
}

TEST_F(NvmlTest, XidsAreCountedOnceAndKnownOnesStartAtZero) {
  auto nvml = Nvml::Open(FAKE_NVML);
  ASSERT_TRUE(nvml.ok());
  EXPECT_EQ((*nvml)->Read()[0].xid_errors.at(79), 0);
  gpu_->pending_xid = 79;
  EXPECT_EQ((*nvml)->Read()[0].xid_errors.at(79), 1);
  EXPECT_EQ((*nvml)->Read()[0].xid_errors.at(79), 1);
}

TEST_F(NvmlTest, AbsentLibraryOrDriverIsNotFound) {
  EXPECT_EQ(Nvml::Open("libno-such-driver.so").status().code(), absl::StatusCode::kNotFound);
  gpu_->driver_loaded = false;
  EXPECT_EQ(Nvml::Open(FAKE_NVML).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(NvmlTest, AbsentFieldHasNoSeries) {
  auto nvml = Nvml::Open(FAKE_NVML);
  Metrics metrics({"0.1.0", "/nonexistent", absl::Minutes(5)});
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("finetuned_gpu_utilization_ratio{")));
  metrics.Gpus((*nvml)->Read(), absl::Now());
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_energy_joules_total{gpu=\"0\"} 1500"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_xid_errors_total{gpu=\"0\",xid=\"79\"} 0"));
  gpu_->has_energy = false;
  metrics.Gpus((*nvml)->Read(), absl::Now());
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("finetuned_gpu_energy_joules_total{")));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_utilization_ratio{gpu=\"0\"} 0.97"));
}

TEST_F(NvmlTest, DriverThatStoppedAnsweringLeavesNoOldValues) {
  auto nvml = Nvml::Open(FAKE_NVML);
  Metrics metrics({"0.1.0", "/nonexistent", absl::Minutes(5)});
  const absl::Time then = absl::Now();
  metrics.Gpus((*nvml)->Read(), then);
  metrics.Refresh(then + absl::Seconds(29));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_info{"));
  metrics.Refresh(then + absl::Seconds(31));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("gpu=\"0\"")));
}

TEST_F(NvmlTest, MemoryOfProcessesIsTold) {
  auto nvml = Nvml::Open(FAKE_NVML);
  const auto readings = (*nvml)->Read();
  ASSERT_EQ(readings.size(), 1u);
  EXPECT_EQ(readings[0].process_bytes, (std::map<int64_t, double>{{4242, 3.0 * (1 << 30)}}));
}

TEST_F(NvmlTest, PowerIsTheEnergyBetweenTwoReadings) {
  auto nvml = Nvml::Open(FAKE_NVML);
  Metrics metrics({"0.1.0", "/nonexistent", absl::Minutes(5)});
  const absl::Time then = absl::Now();
  metrics.Gpus((*nvml)->Read(), then);
  ASSERT_EQ(metrics.LatestGpus(then).size(), 1u);
  EXPECT_FALSE(metrics.LatestGpus(then)[0].power_watts.has_value());
  gpu_->energy_mj += 600000;
  metrics.Gpus((*nvml)->Read(), then + absl::Seconds(2));
  EXPECT_EQ(metrics.LatestGpus(then + absl::Seconds(2))[0].power_watts, 300);
  EXPECT_TRUE(metrics.LatestGpus(then + absl::Seconds(40)).empty());
}

TEST_F(NvmlTest, TheWorkersWordStandsInOnlyWithoutNvml) {
  auto nvml = Nvml::Open(FAKE_NVML);
  Metrics metrics({"0.1.0", "/nonexistent", absl::Minutes(5)});
  internal::v1::WorkerHello hello;
  hello.set_device("cuda:0 Some GPU");
  hello.set_device_total_bytes(1000);
  metrics.Device(hello, 900);
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_memory_total_bytes{gpu=\"0\"} 1000"));
  metrics.Gpus((*nvml)->Read(), absl::Now());
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_memory_total_bytes{gpu=\"0\"} 25769803776"));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("Some GPU")));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_gpu_memory_budget_bytes{gpu=\"0\"} 900"));
}

}  // namespace
}  // namespace finetuned::metrics
