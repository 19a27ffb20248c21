#include "proto/spec/job_file.h"
#include "proto/spec/resolve.h"

#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

namespace finetuned::spec {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  const auto job = ParseJobFile(text, "job.yaml");
  return job.ok() ? "no error" : std::string(job.status().message());
}

TEST(ParseJobFile, ReadsTheShippedExample) {
  std::ifstream in(FINETUNED_SOURCE_DIR "/deploy/examples/sft.yaml");
  std::stringstream text;
  text << in.rdbuf();
  const auto job = ParseJobFile(text.str(), "sft.yaml");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->name(), "identity");
  EXPECT_EQ(job->labels().at("team"), "demo");
  EXPECT_EQ(job->spec().lora().rank(), 16);
  EXPECT_EQ(job->spec().schedule().max_steps(), 30);
  EXPECT_DOUBLE_EQ(job->spec().optimizer().learning_rate(), 5e-4);
}

TEST(ParseJobFile, TextThatIsNotUtf8IsRefused) {
  const auto job = ParseJobFile("name: found by fuzzing \x96\xd2", "f.yaml");  // was read, and written so that it could not be again
  ASSERT_FALSE(job.ok());
  EXPECT_EQ(job.status().message(), "f.yaml is not UTF-8 text; save it as UTF-8");
}

// Found by fuzzing: a block of lines cannot hold them.
TEST(ParseJobFile, ControlCharactersComeBackAsTheyWere) {
  v1::Job job;
  job.set_name(std::string("a\n\r\x04 b:c\x7f", 10));
  const std::string yaml = MessageToYaml(job);
  const auto again = ParseJobFile(yaml, "again.yaml");
  ASSERT_TRUE(again.ok()) << again.status() << "\n" << yaml;
  EXPECT_EQ(again->name(), job.name());
}

TEST(ParseJobFile, ShippedPreferenceExamplesAreValid) {
  for (const char* name : {"dpo", "kto"}) {
    std::ifstream in(std::string(FINETUNED_SOURCE_DIR "/deploy/examples/") + name + ".yaml");
    std::stringstream text;
    text << in.rdbuf();
    const auto job = ParseJobFile(text.str(), name);
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ(job->name(), std::string("polite-") + name);
    EXPECT_EQ(ValidateSpec(job->spec()).size(), 0u) << ValidateSpec(job->spec())[0].message;
    EXPECT_TRUE(ResolveSpec(job->spec(), {.model_max_length = 2048}).ok());
  }
}

TEST(ParseJobFile, SpecFieldsMayStandAtTheTop) {
  const auto job = ParseJobFile("base_model: m\nsft: {packing: true}\nscheduling: {priority: 5}\n", "f");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->spec().base_model(), "m");
  EXPECT_TRUE(job->spec().sft().packing());
  EXPECT_EQ(job->scheduling().priority(), 5);
}

TEST(ParseJobFile, ScalarsTakeTheTypeOfTheirField) {
  const auto job = ParseJobFile("name: 123\nspec:\n  seed: 18446744073709551615\n", "f");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->name(), "123");
  EXPECT_EQ(job->spec().seed(), 18446744073709551615u);
}

TEST(ParseJobFile, ReadsDurations) {
  const auto job = ParseJobFile("scheduling: {max_run_duration: 1.5h}\nttl: 250ms\n", "f");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->scheduling().max_run_duration().seconds(), 5400);
  EXPECT_EQ(job->ttl().nanos(), 250'000'000);
}

TEST(ParseJobFile, UnknownKeyNamesLineAndTheNearestKey) {
  EXPECT_EQ(ErrorOf("spec:\n  optimizer:\n    learnig_rate: 1\n"),
            "job.yaml line 3, spec.optimizer: unknown key learnig_rate; did you mean learning_rate?");
}

TEST(ParseJobFile, WrongTypesNameTheirLine) {
  EXPECT_EQ(ErrorOf("spec:\n  lora: {rank: many}\n"),
            "job.yaml line 2, spec.lora.rank: a whole number is needed, got \"many\"");
  EXPECT_THAT(ErrorOf("spec: [1]\n"), HasSubstr("a mapping of fields is needed"));
  EXPECT_THAT(ErrorOf("spec: {deterministic: yes}\n"), HasSubstr("true or false is needed"));
  EXPECT_THAT(ErrorOf("spec: {optimizer: {weight_decay: .nan}}\n"), HasSubstr("a number is needed"));
}

TEST(ParseJobFile, DoubledKeysAndMethodsAreErrors) {
  EXPECT_THAT(ErrorOf("name: a\nname: b\n"), HasSubstr("comes twice"));
  EXPECT_THAT(ErrorOf("sft: {packing: true}\ndpo: {}\n"), HasSubstr("only one of method may be set"));
}

TEST(ParseJobFile, BrokenYamlNamesTheLine) {
  EXPECT_THAT(ErrorOf("name: a\n  b: [\n"), HasSubstr("job.yaml line"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("must be a mapping"));
}

TEST(ParseJobFile, SizeIsLimited) {
  std::string text = "labels:\n";
  for (int i = 0; i < 20000; ++i) text += "  k" + std::to_string(i) + ": v\n";
  EXPECT_TRUE(ParseJobFile(text, "f").ok());
  for (int i = 20000; i < 200000; ++i) text += "  k" + std::to_string(i) + ": v\n";
  EXPECT_THAT(ErrorOf(text), HasSubstr("at most 1048576 are read"));
}

TEST(ParseJobFile, EachUseOfAnAliasCounts) {
  std::string text = "labels: {a: &l q_proj}\nspec: {lora: {target_modules: [";
  for (int i = 0; i < 120'000; ++i) text += "*l,";
  EXPECT_THAT(ErrorOf(text + "]}}\n"), HasSubstr("more than 100000 values"));
}

TEST(MessageToYaml, ReadsBackAsTheSameMessage) {
  v1::Job job;
  job.set_name("jobs/a");
  job.mutable_spec()->set_base_model("models/m: \"x\" # not a comment");
  job.mutable_spec()->mutable_sft()->set_chat_template("line 1\n  line 2\n");
  job.mutable_spec()->mutable_lora()->add_target_modules("q_proj");
  job.mutable_spec()->mutable_optimizer()->set_learning_rate(1.25e-4);
  job.mutable_spec()->set_seed(1ull << 63);
  job.set_display_name("found by fuzzing: a text that ends with a colon:");
  const auto back = ParseJobFile(MessageToYaml(job), "f");
  ASSERT_TRUE(back.ok()) << back.status() << MessageToYaml(job);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(job, *back)) << MessageToYaml(job);
  const auto json = ParseJobFile(MessageToJson(job), "f");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(job, *json));
}

}  // namespace
}  // namespace finetuned::spec
