#include "server/audit/audit_log.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace finetuned::audit {
namespace {

Entry SomeEntry() {
  Entry entry;
  entry.time = absl::FromUnixMillis(1700000000123);
  entry.principal = "uid:1000";
  entry.method = "finetuned.v1.Jobs/CreateJob";
  entry.resource = "jobs/x";
  entry.code = "OK";
  return entry;
}

class AuditLogTest : public ::testing::Test {
 protected:
  void TearDown() override {
    for (const char* end : {"", ".1", ".2", ".3"}) std::filesystem::remove(path_ + end);
  }
  int Lines(const std::string& end) const {
    std::ifstream in(path_ + end);
    int lines = 0;
    for (std::string line; std::getline(in, line); ++lines) (void)nlohmann::json::parse(line);
    return lines;
  }
  const std::string path_ = absl::StrCat(testing::TempDir(), "/ft_audit_", getpid());
};

TEST(AuditLine, IsOneLineOfJsonWithoutEmptyFields) {
  EXPECT_EQ(ToLine(SomeEntry()),
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"principal\":\"uid:1000\","
            "\"method\":\"finetuned.v1.Jobs/CreateJob\",\"resource\":\"jobs/x\",\"code\":\"OK\"}\n");
}

TEST(AuditLine, NothingThatACallerSendsBreaksTheLine) {
  Entry entry = SomeEntry();
  entry.resource = "jobs/\"x\"}\n{\"forged\": true}\xff" + std::string(10'000, 'a');
  const std::string line = ToLine(entry);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_LT(line.size(), 600u);
  const auto json = nlohmann::json::parse(line);
  EXPECT_FALSE(json.contains("forged"));
}

TEST_F(AuditLogTest, GrowsAcrossRestartsAndIsRotatedBySize) {
  const int64_t line = static_cast<int64_t>(ToLine(SomeEntry()).size());
  for (int start = 0; start < 2; ++start) {
    AuditLog log(path_, 4 * line, 2);
    log.Write(SomeEntry());
  }
  EXPECT_EQ(Lines(""), 2);
  AuditLog log(path_, 4 * line, 2);
  for (int i = 0; i < 11; ++i) log.Write(SomeEntry());
  EXPECT_EQ(Lines(""), 1);
  EXPECT_EQ(Lines(".1"), 4);
  EXPECT_EQ(Lines(".2"), 4);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".3")) << "old files go";
}

}  // namespace
}  // namespace finetuned::audit
