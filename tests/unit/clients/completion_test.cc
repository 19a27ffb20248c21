#include "clients/cli/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cli/commands.h"
#include "clients/cli/man_page.h"

namespace finetuned::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class CompletionTest : public ::testing::Test {
 protected:
  CompletionTest() {
    BuildParser(cli_, app_);
    root_ = DescribeCommands(cli_);
  }
  Completion Ask(const std::vector<std::string>& words) {
    return Complete(root_, words, [](const std::string& collection) -> std::vector<std::string> {
      if (collection == "jobs") return {"bot-1", "bot-2", "other"};
      if (collection == "models") return {"smollm2"};
      return {};
    });
  }
  std::vector<std::string> Words(const std::vector<std::string>& words) {
    std::vector<std::string> out;
    for (const auto& candidate : Ask(words).candidates) out.push_back(candidate.word);
    return out;
  }

  CLI::App cli_{"", "finetune"};
  App app_;
  CommandInfo root_;
};

// Whatever command is added: it is offered, and it is in the manual page.
void EveryCommandIsKnown(const CommandInfo& root, const CommandInfo& command, std::vector<std::string> path,
                         const std::string& page) {
  for (const CommandInfo& sub : command.commands) {
    auto words = path;
    words.push_back(sub.name);
    const Completion completion = Complete(root, words, [](const std::string&) { return std::vector<std::string>(); });
    EXPECT_THAT(completion.candidates, Contains(::testing::Field(&Completion::Candidate::word, sub.name)));
    EXPECT_FALSE(sub.help.empty()) << sub.path;
    EXPECT_THAT(page, HasSubstr(sub.name));
    for (const OptionInfo& option : sub.options) EXPECT_FALSE(option.help.empty()) << sub.path << option.names.back();
    EveryCommandIsKnown(root, sub, words, page);
  }
}

TEST_F(CompletionTest, KnowsEveryCommandOfTheParser) {
  EXPECT_GT(root_.commands.size(), 20u);
  EveryCommandIsKnown(root_, root_, {}, ManPage(root_, "1.2.3"));
}

TEST_F(CompletionTest, CommandsByPrefix) {
  EXPECT_THAT(Words({"pa"}), ElementsAre("pause"));
  EXPECT_THAT(Words({"run", ""}), Contains("sft"));
  EXPECT_THAT(Words({"ls", "x"}), IsEmpty());
}

TEST_F(CompletionTest, OptionsOfTheCommandAndOfTheProgram) {
  EXPECT_THAT(Words({"ls", "--f"}), ElementsAre("--filter"));
  EXPECT_THAT(Words({"ls", "--ser"}), ElementsAre("--server"));
  EXPECT_THAT(Words({"run", "sft", "--micro"}), ElementsAre("--micro-batch-size"));
}

TEST_F(CompletionTest, ValuesOfOptions) {
  EXPECT_THAT(Words({"ls", "-o", ""}), ElementsAre("table", "json", "yaml"));
  EXPECT_THAT(Words({"ls", "--output=j"}), ElementsAre("--output=json"));
  EXPECT_THAT(Words({"run", "sft", "--model", ""}), ElementsAre("smollm2"));
  EXPECT_TRUE(Ask({"run", "sft", "--data", ""}).files);
  EXPECT_TRUE(Ask({"pull", "bot-1", "--to", ""}).folders);
  // The value of an option is no argument, and no command.
  EXPECT_THAT(Words({"--server", "ls", "wat"}), ElementsAre("watch"));
}

TEST_F(CompletionTest, JobsWhereAJobIsExpected) {
  EXPECT_THAT(Words({"watch", "bot"}), ElementsAre("bot-1", "bot-2"));
  EXPECT_THAT(Words({"watch", "bot-1", ""}), IsEmpty());
  EXPECT_THAT(Words({"plot", "bot-1", "bot-1", "o"}), ElementsAre("other"));
  EXPECT_TRUE(Ask({"submit", ""}).files);
  EXPECT_THAT(Words({"completion", ""}), ElementsAre("bash", "zsh", "fish"));
}

TEST(CompletionText, EndsWithWhatTheShellAdds) {
  EXPECT_EQ(CompletionText({{{"ls", "List jobs"}, {"x", ""}}, false, false}), "ls\tList jobs\nx\n:\n");
  EXPECT_EQ(CompletionText({{}, true, false}), ":files\n");
}

TEST(OptionValue, TakesBothForms) {
  EXPECT_EQ(OptionValue({"--server", "a", "ls"}, "--server"), "a");
  EXPECT_EQ(OptionValue({"ls", "--server=b"}, "--server"), "b");
  EXPECT_EQ(OptionValue({"ls", "--server"}, "--server"), "");
}

TEST_F(CompletionTest, ManualPageTellsExitCodesAndEscapes) {
  const std::string page = ManPage(root_, "1.2.3");
  EXPECT_THAT(page, HasSubstr(".TH FINETUNE 1"));
  for (const char* code : {".B 0\n", ".B 1\n", ".B 2\n", ".B 3\n", ".B 130\n"}) EXPECT_THAT(page, HasSubstr(code));
  EXPECT_THAT(page, HasSubstr("\\fB\\-w\\fR, \\fB\\-\\-watch\\fR"));
  EXPECT_THAT(page, Not(HasSubstr(" --")));
}

}  // namespace
}  // namespace finetuned::cli
