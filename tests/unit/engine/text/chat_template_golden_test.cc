// Our templates against jinja2 in the environment of transformers: the golden files are written by
// tests/golden/templates/make_goldens.py.
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <sstream>

#include "engine/text/chat_template.h"

namespace finetuned::text {
namespace {

const std::string kGolden = FINETUNED_SOURCE_DIR "/tests/golden/templates/";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string ReadTemplate(const std::string& name) {
  const std::string shipped =
      ReadFile(FINETUNED_SOURCE_DIR "/engine/text/templates/" + name + ".jinja");
  return shipped.empty() ? ReadFile(kGolden + "trl/" + name + ".jinja") : shipped;
}

std::string Fnv1a(std::string_view data) {
  uint64_t value = 0xCBF29CE484222325;
  for (const char byte : data) value = (value ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
  char hex[17];
  std::snprintf(hex, sizeof(hex), "%016llx", static_cast<unsigned long long>(value));
  return hex;
}

RenderInput InputOf(const Json& file, const Json& conversation) {
  RenderInput input;
  input.messages = conversation.value("messages", Json::array());
  input.tools = conversation.value("tools", Json());
  input.documents = conversation.value("documents", Json());
  input.extra = conversation.value("extra", Json::object());
  input.add_generation_prompt = conversation.value("add_generation_prompt", false);
  input.bos_token = file["tokens"]["bos_token"];
  input.eos_token = file["tokens"]["eos_token"];
  input.pad_token = file["tokens"]["pad_token"];
  input.unk_token = file["tokens"]["unk_token"];
  input.now_unix_seconds = file["now"];
  return input;
}

Json Spans(const std::vector<ByteRange>& ranges) {
  Json out = Json::array();
  for (const ByteRange& range : ranges) out.push_back({range.begin, range.end});
  return out;
}

absl::StatusOr<Rendered> Render(std::string_view source, const RenderInput& input,
                                const RenderLimits& limits = {}) {
  const auto parsed = ParseChatTemplate(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(input, limits);
}

TEST(ChatTemplateGolden, TextAndSpansEqualTheReferenceOnAllKnownTemplates) {
  const Json file = Json::parse(ReadFile(kGolden + "conversations.json"));
  const Json golden = Json::parse(ReadFile(kGolden + "rendered.json"));
  int equal = 0;
  int errors = 0;
  for (const auto& [name, results] : golden.items()) {
    const std::string source = ReadTemplate(name);
    for (const Json& conversation : file["conversations"]) {
      const Json& want = results[conversation["name"].get<std::string>()];
      const auto got = Render(source, InputOf(file, conversation));
      SCOPED_TRACE(name + " x " + conversation["name"].get<std::string>());
      if (want.is_null()) {
        EXPECT_FALSE(got.ok()) << got->text;
        errors += !got.ok();
        continue;
      }
      ASSERT_TRUE(got.ok()) << got.status();
      const Json have = {Fnv1a(got->text), got->text.size(), Spans(got->generation)};
      EXPECT_EQ(have, want) << got->text;
      equal += have == want;
    }
  }
  RecordProperty("equal", equal);
  RecordProperty("errors", errors);
  std::cout << equal << " renderings and " << errors << " errors equal the reference\n";
}

TEST(ChatTemplateGolden, LanguageFeaturesEqualTheReference) {
  const Json file = Json::parse(ReadFile(kGolden + "conversations.json"));
  const Json features = Json::parse(ReadFile(kGolden + "features.json"));
  const Json context = features[0];
  int equal = 0;
  for (size_t i = 1; i < features.size(); ++i) {
    const std::string source = features[i][0];
    Json variables = context;
    RenderInput input = InputOf(file, variables);
    variables.erase("messages");
    input.extra = variables;
    const auto got = Render(source, input);
    if (features[i][1].is_null()) {
      EXPECT_FALSE(got.ok()) << source << " -> " << got->text;
      equal += !got.ok();
      continue;
    }
    EXPECT_TRUE(got.ok()) << source << ": " << got.status();
    if (!got.ok()) continue;
    EXPECT_EQ(got->text, features[i][1].get<std::string>()) << source;
    EXPECT_EQ(Spans(got->generation), features[i][2]) << source;
    equal += got->text == features[i][1].get<std::string>();
  }
  std::cout << equal << " of " << features.size() - 1 << " features equal the reference\n";
}

// 2,000 broken templates: any status is right, crashing or hanging is not.
TEST(ChatTemplateGolden, MutatedTemplatesNeitherCrashNorHang) {
  const Json file = Json::parse(ReadFile(kGolden + "conversations.json"));
  const Json golden = Json::parse(ReadFile(kGolden + "rendered.json"));
  const std::string_view pieces[] = {
      "{%",       "%}", "{{",       "}}",         "{#",   "#}",  "-",   "(",
      ")",        "[",  "]",        "|",          ".",    "'",   "for", "if",
      "endfor",   "**", "loop",     "* 99999999", "\xff", "not", "is",  "{% generation %}",
      "messages", ":",  "namespace"};
  std::vector<std::string> sources;
  for (const auto& [name, results] : golden.items()) sources.push_back(ReadTemplate(name));
  std::mt19937 random(20261005);
  const auto below = [&random](size_t n) { return random() % n; };
  RenderLimits limits;
  limits.max_steps = 200'000;
  limits.max_output_bytes = 1 << 20;
  for (int i = 0; i < 2000; ++i) {
    std::string source = sources[below(sources.size())];
    for (size_t edits = 1 + below(4); edits > 0; --edits) {
      const size_t at = below(source.size());
      switch (below(4)) {
        case 0:
          source.erase(at, 1 + below(20));
          break;
        case 1:
          source.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 2:
          source[at] = static_cast<char>(below(128));
          break;
        default:
          source.insert(at, source.substr(below(source.size()), 1 + below(60)));
      }
      if (source.empty()) source = "x";
    }
    const Json& conversation = file["conversations"][below(file["conversations"].size())];
    const auto got = Render(source, InputOf(file, conversation), limits);
    if (got.ok()) {
      for (const ByteRange& range : got->from_user) ASSERT_LE(range.end, got->text.size());
    }
  }
}

}  // namespace
}  // namespace finetuned::text
