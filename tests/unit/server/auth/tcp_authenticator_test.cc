#include "server/auth/tcp_authenticator.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace finetuned::auth {
namespace {

constexpr char kToken[] = "0123456789abcdef0123456789abcdef";

std::string WriteToken(const std::string& text, mode_t mode) {
  const std::string path = testing::TempDir() + "/ft_token_" + std::to_string(getpid());
  std::filesystem::remove(path);
  std::ofstream(path) << text;
  chmod(path.c_str(), mode);
  return path;
}

TEST(BearerToken, OnlyTheExactTokenMatches) {
  const BearerToken token(kToken);
  EXPECT_TRUE(token.Matches(std::string("Bearer ") + kToken));
  EXPECT_FALSE(token.Matches(kToken));
  EXPECT_FALSE(token.Matches(std::string("Bearer ") + kToken + " "));
  EXPECT_FALSE(token.Matches("Bearer "));
  EXPECT_FALSE(token.Matches(""));
  EXPECT_FALSE(token.Matches("Basic abc"));
}

TEST(BearerToken, TheFileMustBePrivateAndTheTokenLong) {
  const auto good = BearerToken::FromFile(WriteToken(std::string(kToken) + "\n", 0600));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_TRUE(good->Matches(std::string("Bearer ") + kToken));
  EXPECT_FALSE(BearerToken::FromFile(WriteToken(kToken, 0644)).ok());
  EXPECT_FALSE(BearerToken::FromFile(WriteToken("short", 0600)).ok());
  EXPECT_FALSE(BearerToken::FromFile("/nonexistent/token").ok());
}

}  // namespace
}  // namespace finetuned::auth
