// Rewards of the completion's shape: length and format.
#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "engine/reward/args.h"
#include "engine/reward/internal.h"

namespace finetuned::reward {
namespace {

int64_t Characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

int64_t Words(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const bool space = absl::ascii_isspace(static_cast<unsigned char>(c));
    if (!space && !inside) ++words;
    inside = !space;
  }
  return words;
}

class Length final : public Reward {
 public:
  Length(std::string unit, double min, double max, double slack)
      : unit_(std::move(unit)), min_(min), max_(max), slack_(slack) {}
  Score Evaluate(const Item& item) const override {
    const int64_t n = unit_ == "tokens"       ? item.tokens
                      : unit_ == "characters" ? Characters(item.completion)
                                              : Words(item.completion);
    const double length = static_cast<double>(n);
    const double beyond = std::max(min_ - length, length - max_);
    if (beyond <= 0) return {1, ""};
    return {beyond < slack_ ? 1 - beyond / slack_ : 0, ""};
  }

 private:
  const std::string unit_;
  const double min_, max_, slack_;
};

// Finds `tag` at or after *at and moves *at behind it.
bool Pass(std::string_view text, std::string_view tag, size_t* at) {
  const size_t found = text.find(tag, *at);
  if (found == std::string_view::npos) return false;
  *at = found + tag.size();
  return true;
}

bool Once(std::string_view text, std::string_view tag) {
  const size_t first = text.find(tag);
  return first != std::string_view::npos && text.find(tag, first + 1) == std::string_view::npos;
}

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// TRL's think_format_reward: begins with <think>, has it once, closes it.
bool Think(std::string_view text) {
  constexpr std::string_view kOpen = "<think>";
  size_t at = 0;
  return StartsWith(text, kOpen) && Once(text, kOpen) && Pass(text, kOpen, &at) &&
         Pass(text, "</think>", &at);
}

// <think>...</think> white space <answer>...</answer>, each tag once, nothing after it.
bool ThinkAnswer(std::string_view text) {
  for (const std::string_view tag : {"<think>", "</think>", "<answer>", "</answer>"}) {
    if (!Once(text, tag)) return false;
  }
  size_t at = 0;
  if (!StartsWith(text, "<think>") || !Pass(text, "</think>", &at)) return false;
  while (at < text.size() && absl::ascii_isspace(static_cast<unsigned char>(text[at]))) ++at;
  if (!StartsWith(text.substr(at), "<answer>") || !Pass(text, "</answer>", &at)) return false;
  while (at < text.size() && absl::ascii_isspace(static_cast<unsigned char>(text[at]))) ++at;
  return at == text.size();
}

class Format final : public Reward {
 public:
  explicit Format(bool answer) : answer_(answer) {}
  Score Evaluate(const Item& item) const override {
    const bool good = answer_ ? ThinkAnswer(item.completion) : Think(item.completion);
    return {good ? 1.0 : 0.0, ""};
  }

 private:
  const bool answer_;
};

}  // namespace

MadeReward MakeLength(const Args& args) {
  ArgumentReader reader("length", args);
  const auto min = reader.Number("min", 0, 1e9);
  const auto max = reader.Number("max", 0, 1e9);
  const double slack = reader.Number("slack", 0, 1e9).value_or(0);
  std::string unit = reader.OneOf("unit", {"tokens", "characters", "words"});
  reader.Require(min || max, "max", "is required unless min is given");
  reader.Require(!min || !max || *min <= *max, "min", "is above max");
  if (absl::Status s = reader.Finish(); !s.ok()) return s;
  return std::make_unique<Length>(std::move(unit), min.value_or(0),
                                  max.value_or(std::numeric_limits<double>::infinity()), slack);
}

MadeReward MakeFormat(const Args& args) {
  ArgumentReader reader("format", args);
  const std::string style = reader.OneOf("style", {"think", "think_answer"});
  if (absl::Status s = reader.Finish(); !s.ok()) return s;
  return std::make_unique<Format>(style == "think_answer");
}

}  // namespace finetuned::reward
