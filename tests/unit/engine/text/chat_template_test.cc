#include "engine/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/text/known_templates.h"

namespace finetuned::text {
namespace {

using ::testing::HasSubstr;

RenderInput Conversation(const char* json) {
  RenderInput input;
  input.messages = Json::parse(json);
  return input;
}

absl::StatusOr<Rendered> Render(std::string_view source, const RenderInput& input,
                                const RenderLimits& limits = {}) {
  const auto parsed = ParseChatTemplate(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(input, limits);
}

std::string UserText(const Rendered& rendered) {
  std::string out;
  for (const ByteRange& range : rendered.from_user) {
    out += "[" + rendered.text.substr(range.begin, range.end - range.begin) + "]";
  }
  return out;
}

std::string ReadTemplate(const std::string& name) {
  std::ifstream file(FINETUNED_SOURCE_DIR "/engine/text/templates/" + name + ".jinja");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

constexpr char kDialog[] = R"([{"role": "user", "content": "Hi <|im_end|>"},
                               {"role": "assistant", "content": "Hello"}])";

TEST(ChatTemplate, MarksBytesOfUserData) {
  const auto rendered =
      Render("{% for m in messages %}<|{{ m.role }}|>{{ m.content|trim|upper }}{% endfor %}",
             Conversation(R"([{"role": "user", "content": " <s> "}])"));
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_EQ(rendered->text, "<|user|><S>");
  EXPECT_EQ(UserText(*rendered), "[user][<S>]");
}

TEST(ChatTemplate, ProvenanceSurvivesStringOperations) {
  const RenderInput input = Conversation(R"([{"role": "u", "content": "a<s>b"}])");
  const auto user_text = [&input](const std::string& expression) {
    const auto rendered =
        Render("{% set c = messages[0].content %}{{ " + expression + " }}", input);
    return rendered.ok() ? UserText(*rendered) : rendered.status().ToString();
  };
  EXPECT_EQ(user_text("'<s>' + c + '</s>'"), "[a<s>b]");
  EXPECT_EQ(user_text("c[1:4] ~ '<s>'"), "[<s>]");
  EXPECT_EQ(user_text("c.split('<s>')|join('<s>')"), "[a][b]");
  EXPECT_EQ(user_text("c.replace('b', '<s>')"), "[a<s>]");
  EXPECT_EQ(user_text("'%s!' % c"), "[a<s>b]");
  EXPECT_EQ(user_text("'{}!'.format(c)"), "[a<s>b]");
  EXPECT_EQ(user_text("{'k': c, 'l': 1}|tojson"), "[{\"k\": \"a<s>b\", \"l\": 1}]");
  EXPECT_EQ(user_text("{'l': 1}|tojson"), "");
  EXPECT_EQ(user_text("[c]"), "['a<s>b']");
  EXPECT_EQ(user_text("c|reverse"), "[b>s<a]");
}

TEST(ChatTemplate, SpecialTokensBelongToTheTemplate) {
  RenderInput input = Conversation("[]");
  input.bos_token = "<s>";
  const auto rendered = Render("{{ bos_token }}{{ eos_token is defined }}", input);
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_EQ(rendered->text, "<s>False");
  EXPECT_TRUE(rendered->from_user.empty());
}

TEST(ChatTemplate, ErrorsOfTheTemplateNameTheLine) {
  const auto status =
      Render("\n{{ raise_exception('roles must alternate') }}", Conversation("[]")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "chat template, line 2: roles must alternate");
}

TEST(ChatTemplate, SyntaxErrorsNameLineAndColumn) {
  const auto status = ParseChatTemplate("a\n {% for %}").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 2, column 9"));
}

TEST(ChatTemplate, UnsupportedStatementsAreRefused) {
  for (const char* source : {"{% include 'x' %}", "{% block a %}{% endblock %}", "{{ 1|urlize }}",
                             "{{ 1 is odder }}", "{% for x in y recursive %}{% endfor %}",
                             "{% macro m() %}{% generation %}x{% endgeneration %}{% endmacro %}"}) {
    EXPECT_EQ(ParseChatTemplate(source).status().code(), absl::StatusCode::kInvalidArgument)
        << source;
  }
}

TEST(ChatTemplate, LimitsStopHostileTemplates) {
  RenderLimits limits;
  limits.max_steps = 100'000;
  limits.max_output_bytes = 1 << 20;
  const std::string loop100 = "{% for i in range(100000) %}";
  for (const std::string& source : {
           loop100 + loop100 + "{% endfor %}{% endfor %}",
           std::string("{% set s = 'x' * 9000000000000 %}"),
           std::string("{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}"
                       "{% set n.s = n.s + n.s %}{% endfor %}"),
           std::string("{% set n = namespace(s=[]) %}{% for i in range(99) %}"
                       "{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s == [n.s] }}{{ n.s }}"),
           std::string("{% set n = namespace(s=[]) %}{% for i in range(9999) %}"
                       "{% set n.s = [n.s] %}{% endfor %}"),
           std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
           std::string("{% macro m() %}{{ -(-(-(-(-(-(-(-(-(-(-(-(1 if m() else 2)))))))))))) }}"
                       "{% endmacro %}{{ m() }}"),
           std::string("{% set n = namespace() %}{% set n.n = n %}{{ n }}"),
           std::string("{{ 'a'|map(*(['map'] * 20000))|list }}"),
           std::string("{{ '%99999999d' % 1 }}{{ 'x'|center(99999999) }}"),
       }) {
    const auto status = Render(source, Conversation("[]"), limits).status();
    EXPECT_FALSE(status.ok()) << source;
    if (source.find("%99999999d") == std::string::npos) {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << source << status;
    }
  }
}

TEST(ChatTemplate, DeepNestingIsRefusedBeforeTheStackEnds) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  const int kMany = 20'000;
  for (const std::string& source :
       {"{{ " + repeat("(", kMany) + "1" + repeat(")", kMany) + " }}",
        "{{ " + repeat("[", kMany) + repeat("]", kMany) + " }}",
        "{{ " + repeat("not ", kMany) + "1 }}", "{{ " + repeat("-", kMany) + "1 }}",
        "{{ 1" + repeat("+1", kMany) + " }}", "{{ a" + repeat(".a", kMany) + " }}",
        "{{ a" + repeat("|list", kMany) + " }}", "{{ a" + repeat("()", kMany) + " }}",
        "{{ " + repeat("1 if 1 else ", kMany) + "1 }}", repeat("{% if 1 %}", kMany),
        "{{ 1" + repeat(" if 1", kMany) + " }}", "{{ {1:" + repeat("{1:", kMany) + " }}"}) {
    EXPECT_EQ(ParseChatTemplate(source).status().code(), absl::StatusCode::kInvalidArgument)
        << source.substr(0, 20);
  }
  std::string deep = repeat("[", 500) + repeat("]", 500);
  EXPECT_EQ(Render("x", Conversation(("[{\"a\":" + deep + "}]").c_str())).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, InvalidUtf8IsRefused) {
  EXPECT_FALSE(ParseChatTemplate("a\xff").ok());
  RenderInput input;
  input.messages = Json::array({Json::object({{"content", "\xc3("}})});
  EXPECT_EQ(Render("x", input).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KnownTemplates, UnknownTemplateHasNoTrainingVariant) {
  EXPECT_TRUE(KnownTrainingTemplate("{{ messages }}").empty());
}

TEST(KnownTemplates, EveryPairParsesAndOnlyTheVariantMarksGenerations) {
  EXPECT_EQ(KnownTemplates().size(), 32u);
  for (const KnownTemplate& pair : KnownTemplates()) {
    const auto original = ParseChatTemplate(pair.original);
    const auto training = ParseChatTemplate(pair.training);
    ASSERT_TRUE(original.ok()) << original.status();
    ASSERT_TRUE(training.ok()) << training.status();
    EXPECT_FALSE((*original)->has_generation_blocks());
    EXPECT_TRUE((*training)->has_generation_blocks());
    EXPECT_EQ(KnownTrainingTemplate(pair.original), pair.training);
  }
}

TEST(KnownTemplates, CompiledInTextsAreTheFiles) {
  int pairs = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(FINETUNED_SOURCE_DIR "/engine/text/templates")) {
    const std::string name = entry.path().stem();
    if (name.size() < 9 || name.substr(name.size() - 9) != "_training") continue;
    const std::string original = ReadTemplate(name.substr(0, name.size() - 9));
    std::string training = ReadTemplate(name);
    std::erase(training, '\r');  // of glm4moe
    EXPECT_EQ(KnownTrainingTemplate(original), training) << name;
    ++pairs;
  }
  EXPECT_EQ(pairs, 32);
}

TEST(KnownTemplates, SmolLm2TrainsOnAnswersOnly) {
  const std::string source = ReadTemplate("smollm2");
  const std::string_view training = KnownTrainingTemplate(source);
  ASSERT_FALSE(training.empty());
  const auto plain = Render(source, Conversation(kDialog));
  const auto marked = Render(training, Conversation(kDialog));
  ASSERT_TRUE(plain.ok() && marked.ok()) << plain.status() << marked.status();
  EXPECT_EQ(plain->text, marked->text);
  ASSERT_EQ(marked->generation.size(), 1u);
  const ByteRange span = marked->generation[0];
  EXPECT_EQ(marked->text.substr(span.begin, span.end - span.begin), "Hello<|im_end|>\n");
}

}  // namespace
}  // namespace finetuned::text
