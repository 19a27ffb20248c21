#include "server/jobs/quota.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finetuned::jobs {
namespace {

using ::testing::HasSubstr;

const absl::Time kNow = absl::FromUnixSeconds(1'000'000 * 3600LL);  // a full hour
constexpr absl::Duration kDay = absl::Hours(24);

class DeviceTimeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ftquotaXXXXXX";
    dir_ = mkdtemp(name);
    store_ = *store::Store::Open({store::Layout{dir_}, nullptr});
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(dir_);
  }
  std::string dir_;
  std::unique_ptr<store::Store> store_;
};

TEST_F(DeviceTimeTest, CountsTheWindowByPrincipalAndSurvivesARestart) {
  DeviceTime book(store_.get());
  book.Add("uid:1", kNow - absl::Minutes(90), kNow, kDay);
  book.Add("uid:2", kNow - absl::Minutes(5), kNow, kDay);
  EXPECT_EQ(book.Used("uid:1", kNow, kDay), absl::Minutes(90));
  EXPECT_EQ(book.Used("uid:2", kNow, kDay), absl::Minutes(5));
  EXPECT_EQ(book.Used("uid:3", kNow, kDay), absl::ZeroDuration());
  EXPECT_EQ(book.Used("uid:1", kNow, absl::Hours(1)), absl::Minutes(60)) << "whole hours of the window";

  DeviceTime again(store_.get());
  EXPECT_EQ(again.Used("uid:1", kNow, kDay), absl::Minutes(90));
  EXPECT_EQ(again.Used("uid:1", kNow + absl::Hours(30), kDay), absl::ZeroDuration());
}

TEST(Quota, ZeroMeansNoLimitAndExemptPrincipalsHaveNone) {
  config::QuotasConfig quotas;
  EXPECT_TRUE(CheckQueued(quotas, "token:a", 1'000'000).ok());
  EXPECT_TRUE(CheckStorage(quotas, "token:a", int64_t{1} << 60).ok());
  EXPECT_TRUE(CheckDeviceTime(quotas, "token:a", absl::Hours(1000)).ok());
  quotas.max_queued_jobs = 2;
  quotas.max_storage_bytes = 100;
  quotas.max_device_time = absl::Hours(2);
  quotas.exempt = {"uid:0"};
  EXPECT_TRUE(CheckQueued(quotas, "uid:0", 2).ok());
  EXPECT_TRUE(CheckStorage(quotas, "uid:0", 101).ok());
  EXPECT_TRUE(CheckDeviceTime(quotas, "uid:0", absl::Hours(3)).ok());
}

TEST(Quota, ErrorsSayHowMuchAndWhatToDo) {
  config::QuotasConfig quotas;
  quotas.max_queued_jobs = 2;
  quotas.max_storage_bytes = 100;
  quotas.max_device_time = absl::Hours(2);
  EXPECT_TRUE(CheckQueued(quotas, "token:a", 1).ok());
  EXPECT_TRUE(CheckStorage(quotas, "token:a", 100).ok());
  EXPECT_TRUE(CheckDeviceTime(quotas, "token:a", absl::Minutes(119)).ok());
  const absl::Status queued = CheckQueued(quotas, "token:a", 2);
  EXPECT_EQ(queued.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(queued.message()), HasSubstr("has 2 jobs in the queue; its quota is 2"));
  EXPECT_THAT(std::string(CheckStorage(quotas, "token:a", 101).message()), HasSubstr("101 bytes; its quota is 100"));
  EXPECT_THAT(std::string(CheckDeviceTime(quotas, "token:a", absl::Hours(2)).message()),
              HasSubstr("held the device for 2h of the last 24h; its quota is 2h"));
}

}  // namespace
}  // namespace finetuned::jobs
