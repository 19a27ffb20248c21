#include "proto/spec/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace finetuned::spec {
namespace {

// Values of RFC 3720, appendix B.4.
TEST(Crc32c, EqualsTheStandard) {
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(Crc32c(ascending), 0x46DD794Eu);
}

}  // namespace
}  // namespace finetuned::spec
