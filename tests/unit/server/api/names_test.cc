#include "server/api/names.h"

#include <gtest/gtest.h>

#include "server/api/list_filter.h"

namespace finetuned::api {
namespace {

TEST(Names, IdsAreLowerCaseLettersDigitsAndDashes) {
  for (const char* good : {"abc", "a-1", "my-run-7"}) EXPECT_TRUE(IsValidId(good)) << good;
  for (const std::string& bad : {std::string(""), std::string("ab"), std::string("1abc"), std::string("Abc"),
                                std::string("a/c"), std::string("../x"), std::string("a.c"), std::string("a_b"),
                                std::string(64, 'a'), std::string("ab\0c", 4)}) {
    EXPECT_FALSE(IsValidId(bad)) << bad;
  }
}

TEST(Names, ParseNameTakesOnlyItsCollection) {
  EXPECT_EQ(ParseName("jobs", "jobs/abc").value(), "abc");
  for (const char* bad : {"abc", "datasets/abc", "jobs/", "jobs/a/b", "jobs/../abc", "/jobs/abc"}) {
    const auto result = ParseName("jobs", bad);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(result.status().message().find("jobs/ID"), absl::string_view::npos);
  }
}

TEST(Names, PageTokensComeBackAndBelongToTheirQuery) {
  const std::string token = EncodePageToken("jobs a", "jobs/x\n7");
  EXPECT_EQ(DecodePageToken("jobs a", token).value(), "jobs/x\n7");
  EXPECT_EQ(DecodePageToken("jobs a", "").value(), "");
  EXPECT_FALSE(DecodePageToken("jobs b", token).ok());
  EXPECT_FALSE(DecodePageToken("jobs a", token + "A").ok());
  EXPECT_FALSE(DecodePageToken("jobs a", "***").ok());
}

TEST(Names, PageSizeHasADefaultAndALimit) {
  EXPECT_EQ(PageSize(0, 50, 1000).value(), 50);
  EXPECT_EQ(PageSize(7, 50, 1000).value(), 7);
  EXPECT_EQ(PageSize(5000, 50, 1000).value(), 1000);
  EXPECT_FALSE(PageSize(-1, 50, 1000).ok());
}

bool Matches(const std::string& text, const std::string& state) {
  const auto filter = ListFilter::Parse(text, {"state", "labels."});
  EXPECT_TRUE(filter.ok()) << filter.status();
  return filter.ok() && filter->Matches([&](const std::string& field) -> std::optional<std::string> {
    if (field == "state") return state;
    if (field == "labels.team") return "nlp";
    return std::nullopt;
  });
}

TEST(ListFilter, TermsAreJoinedByAnd) {
  EXPECT_TRUE(Matches("", "QUEUED"));
  EXPECT_TRUE(Matches("state = QUEUED", "QUEUED"));
  EXPECT_FALSE(Matches("state = QUEUED", "RUNNING"));
  EXPECT_TRUE(Matches("state!=QUEUED", "RUNNING"));
  EXPECT_TRUE(Matches("state = \"QUEUED\" AND labels.team = nlp", "QUEUED"));
  EXPECT_FALSE(Matches("state = QUEUED AND labels.team = vision", "QUEUED"));
  EXPECT_FALSE(Matches("labels.other = x", "QUEUED"));
  EXPECT_TRUE(Matches("labels.other != x", "QUEUED"));
}

TEST(ListFilter, ErrorsSayWhatIsAllowed) {
  const auto near = ListFilter::Parse("stat = x", {"state", "method"});
  EXPECT_NE(near.status().message().find("did you mean state?"), absl::string_view::npos);
  for (const char* bad : {"state", "= x", "state = a AND", "labels. = x", "state > 3"}) {
    EXPECT_FALSE(ListFilter::Parse(bad, {"state", "labels."}).ok()) << bad;
  }
}

}  // namespace
}  // namespace finetuned::api
