#include "engine/train/measure_device.h"

#include <gtest/gtest.h>

#include <vector>

namespace finetuned::train {
namespace {

// A device on which `used` bytes are held before the work and after it.
class FakeMeter : public DeviceMeter {
 public:
  FakeMeter(std::optional<int64_t> before, std::optional<int64_t> after) : used_{before, after} {}
  std::optional<int64_t> Used() override { return used_[worked_ ? 1 : 0]; }
  bool Work() override {
    worked_ = true;
    return works;
  }
  int64_t Reserved() override { return 100 << 20; }
  int64_t Allocated() override { return 33 << 20; }
  bool works = true;

 private:
  const std::vector<std::optional<int64_t>> used_;
  bool worked_ = false;
};

constexpr int64_t kOthers = 5'000'000'000, kContext = 400'000'000, kReserved = 100 << 20, kMargin = 32 << 20;

TEST(MeasureWith, IsWhatTheDriverCountsBesideTheAllocator) {
  FakeMeter meter(kOthers, kOthers + kContext + kReserved);
  const auto measured = MeasureWith(meter);
  ASSERT_TRUE(measured.has_value());
  EXPECT_EQ(measured->context_bytes, kContext + kMargin);
  EXPECT_EQ(measured->workspace_bytes, 33 << 20);
}

TEST(MeasureWith, IsNothingWhereTheDriverDoesNotTell) {
  FakeMeter silent(std::nullopt, kOthers), late(kOthers, std::nullopt);
  EXPECT_FALSE(MeasureWith(silent).has_value());
  EXPECT_FALSE(MeasureWith(late).has_value());
}

TEST(MeasureWith, IsNothingWhenAnotherProcessCameOrWent) {
  FakeMeter went(kOthers, kOthers - 1'000'000'000), came(kOthers, kOthers + 9'000'000'000);
  EXPECT_FALSE(MeasureWith(went).has_value());
  EXPECT_FALSE(MeasureWith(came).has_value());
}

TEST(MeasureWith, IsNothingWhenTheWorkFails) {
  FakeMeter meter(kOthers, kOthers + kContext + kReserved);
  meter.works = false;
  EXPECT_FALSE(MeasureWith(meter).has_value());
}

}  // namespace
}  // namespace finetuned::train
