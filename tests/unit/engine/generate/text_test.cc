// Prompts and text of answers, with the byte-level tokenizer of the golden models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "engine/format/model_source.h"
#include "engine/generate/prompt.h"
#include "engine/generate/text_stream.h"

namespace finetuned::generate {
namespace {

const text::Tokenizer& Tokenizer() {
  static const auto tokenizer =
      (*format::OpenModel(std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/untied"))->LoadTokenizer();
  return **tokenizer;
}

std::vector<int32_t> Ids(const std::string& text) {
  const auto tokens = Tokenizer().Encode(text);
  std::vector<int32_t> ids;
  for (const text::Token& token : *tokens) ids.push_back(token.id);
  return ids;
}

// What Add returned for each token, then Finish.
std::vector<std::string> Pieces(const std::string& text, std::vector<std::string> stop = {}) {
  TextStream stream(&Tokenizer(), std::move(stop));
  std::vector<std::string> pieces;
  for (int32_t id : Ids(text)) {
    pieces.push_back(stream.Add(id));
    if (stream.stopped()) break;
  }
  pieces.push_back(stream.Finish());
  return pieces;
}

std::string Joined(const std::vector<std::string>& pieces) {
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  return all;
}

TEST(TextStream, PiecesAreWholeCharactersAndMakeTheText) {
  const std::string text = "Grüße, 日本 🙂 ok";
  const auto pieces = Pieces(text);
  EXPECT_EQ(Joined(pieces), text);
  for (const std::string& piece : pieces) {
    EXPECT_FALSE(absl::StrContains(piece, "\xef\xbf\xbd")) << piece;
    if (!piece.empty()) EXPECT_NE(static_cast<unsigned char>(piece[0]) & 0xc0, 0x80) << "a piece begins inside a character";
  }
}

TEST(TextStream, AStopStringEndsTheTextBeforeIt) {
  EXPECT_EQ(Joined(Pieces("one two END three", {"END"})), "one two ");
  EXPECT_EQ(Joined(Pieces("a\n\nb", {"zzz", "\n\n"})), "a");
  EXPECT_EQ(Joined(Pieces("END", {"END"})), "");
}

TEST(TextStream, WhatMayBeginAStopStringWaitsUntilItDoesNot) {
  TextStream stream(&Tokenizer(), {"stop it"});
  std::string shown;
  for (int32_t id : Ids("he stop")) shown += stream.Add(id);
  EXPECT_EQ(shown, "he ");
  for (int32_t id : Ids("s!")) shown += stream.Add(id);
  EXPECT_EQ(shown, "he stops!");
  EXPECT_FALSE(stream.stopped());
}

TEST(TextStream, TheEndGivesWhatWasHeld) {
  EXPECT_EQ(Joined(Pieces("almost EN", {"END"})), "almost EN");
  TextStream stream(&Tokenizer(), {});
  EXPECT_EQ(stream.Add(Ids("é")[0]), "");  // half a character
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");
}

TEST(Prompt, TheTemplateAsksForAnAnswer) {
  const std::string chat =
      "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>"
      "{% endif %}";
  EXPECT_EQ(*PromptTokens({"hi", "be kind", false, chat}, Tokenizer()), Ids("<system>be kind<user>hi<assistant>"));
  EXPECT_EQ(*PromptTokens({"hi", "", false, chat}, Tokenizer()), Ids("<user>hi<assistant>"));
  EXPECT_EQ(*PromptTokens({"hi", "", true, chat}, Tokenizer()), Ids("hi"));
}

TEST(Prompt, ErrorsNameTheField) {
  const auto error = [](const PromptText& text) { return std::string(PromptTokens(text, Tokenizer()).status().message()); };
  EXPECT_THAT(error({"hi", "", false, ""}), testing::StartsWith("raw: the model has no chat template"));
  EXPECT_THAT(error({"", "", true, ""}), testing::StartsWith("prompt: is empty"));
  EXPECT_THAT(error({"\xff", "", true, ""}), testing::StartsWith("prompt: "));
}

}  // namespace
}  // namespace finetuned::generate
