#include "server/auth/token_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace finetuned::auth {
namespace {

using ::testing::HasSubstr;

constexpr char kToken[] = "0123456789abcdef0123456789abcdef";

std::string Bearer(const std::string& token) { return "Bearer " + token; }

std::string Problem(const std::string& text) { return std::string(TokenList::Parse(text).status().message()); }

class TokenFileTest : public ::testing::Test {
 protected:
  void Write(const std::string& text, mode_t mode = 0600) {
    std::ofstream(path_ + ".new") << text;
    chmod((path_ + ".new").c_str(), mode);
    std::filesystem::rename(path_ + ".new", path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::string path_ = absl::StrCat(testing::TempDir(), "/ft_tokens_", getpid());
};

TEST(TokenList, OnlyTheExactTokenMatches) {
  const auto list = TokenList::Parse(std::string(kToken) + "\n");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->Find(Bearer(kToken)), "token");
  EXPECT_EQ(list->Find(kToken), std::nullopt);
  EXPECT_EQ(list->Find(Bearer(kToken) + " "), std::nullopt);
  EXPECT_EQ(list->Find("Bearer "), std::nullopt);
  EXPECT_EQ(list->Find(""), std::nullopt);
  EXPECT_EQ(list->Find("Basic abc"), std::nullopt);
}

TEST(TokenList, NamedTokensAreStoredAsHashesAndAreDifferentPrincipals) {
  const auto ann = MakeToken("ann"), bob = MakeToken("bob.laptop");
  ASSERT_TRUE(ann.ok() && bob.ok());
  EXPECT_EQ(ann->token.size(), 64u);
  EXPECT_THAT(ann->line, testing::Not(HasSubstr(ann->token)));
  const auto list = TokenList::Parse(absl::StrCat("# people\n", ann->line, "\n\n", bob->line, "  # laptop\n"));
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->Find(Bearer(ann->token)), "token:ann");
  EXPECT_EQ(list->Find(Bearer(bob->token)), "token:bob.laptop");
  // The hash is not the token.
  EXPECT_EQ(list->Find(Bearer(ann->line.substr(ann->line.find(':') + 1))), std::nullopt);
  EXPECT_FALSE(MakeToken("").ok());
  EXPECT_FALSE(MakeToken("a b").ok());
}

TEST(TokenList, MistakesNameTheirLine) {
  EXPECT_THAT(Problem(""), HasSubstr("no token"));
  EXPECT_THAT(Problem("short"), HasSubstr("line 1: holds 5 characters"));
  EXPECT_THAT(Problem("\nann sha256:12"), HasSubstr("line 2: must be"));
  EXPECT_THAT(Problem("ann md5:" + std::string(64, 'a')), HasSubstr("line 1"));
  const std::string line = "ann sha256:" + std::string(64, 'a') + "\n";
  EXPECT_THAT(Problem(line + line), HasSubstr("line 2: token:ann is given twice"));
}

TEST_F(TokenFileTest, TheFileMustBePrivate) {
  Write(kToken, 0644);
  EXPECT_THAT(std::string(TokenFile::Open(path_).status().message()), HasSubstr("0600"));
  EXPECT_FALSE(TokenFile::Open(path_ + ".missing").ok());
}

TEST_F(TokenFileTest, AChangedFileIsReadAgainAndABadOneChangesNothing) {
  const std::string other(32, 'x');
  Write(kToken);
  auto file = TokenFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Find(Bearer(kToken)).has_value());

  Write(other);
  ASSERT_TRUE((*file)->Reload().ok());
  EXPECT_FALSE((*file)->Find(Bearer(kToken)).has_value()) << "a token that was taken out still opens";
  EXPECT_TRUE((*file)->Find(Bearer(other)).has_value());

  Write("short");
  EXPECT_FALSE((*file)->Reload().ok());
  EXPECT_TRUE((*file)->Find(Bearer(other)).has_value());

  Write(kToken);  // and without being told, within about a second
  bool seen = false;
  for (int i = 0; i < 50 && !seen; ++i) {
    seen = (*file)->Find(Bearer(kToken)).has_value();
    if (!seen) absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_TRUE(seen);
}

}  // namespace
}  // namespace finetuned::auth
