// Rewards that compare the completion's text: exact, numeric, regex.
#include <re2/re2.h>

#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/reward/args.h"
#include "engine/reward/internal.h"
#include "engine/reward/number.h"

namespace finetuned::reward {
namespace {

re2::StringPiece Piece(std::string_view text) { return {text.data(), text.size()}; }

// A pattern from an argument; null when the argument is empty. `groups`: capturing groups it must
// have.
std::unique_ptr<RE2> Compile(ArgumentReader* args, const std::string& name, int groups) {
  const std::string pattern = args->Text(name, "");
  if (pattern.empty()) return nullptr;
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(8 << 20);
  auto compiled = std::make_unique<RE2>(pattern, options);
  args->Require(compiled->ok(), name, absl::StrCat("is no pattern of RE2: ", compiled->error()));
  if (compiled->ok() && groups > 0) {
    args->Require(compiled->NumberOfCapturingGroups() == groups, name,
                  absl::StrCat("needs ", groups, " capturing group around the answer, it has ",
                               compiled->NumberOfCapturingGroups()));
  }
  return compiled;
}

// What the pattern's group holds in its last match; the whole text without a pattern.
std::optional<std::string_view> Extract(const RE2* pattern, std::string_view text) {
  if (pattern == nullptr) return text;
  re2::StringPiece rest = Piece(text), found;
  std::optional<std::string_view> last;
  while (RE2::FindAndConsume(&rest, *pattern, &found)) {
    last = std::string_view(found.data(), found.size());
    if (rest.empty()) break;
    // An empty match consumes nothing.
    if (found.empty()) rest.remove_prefix(1);
  }
  return last;
}

const std::string* Column(const Item& item, const std::string& name) {
  if (item.columns == nullptr) return nullptr;
  const auto found = item.columns->find(name);
  return found == item.columns->end() ? nullptr : &found->second;
}

Score NoColumn(const std::string& name) {
  return Score::Abstain(absl::StrCat("the row has no column \"", name, "\""));
}

class Exact final : public Reward {
 public:
  Exact(std::string column, std::unique_ptr<RE2> pattern, bool ignore_case)
      : column_(std::move(column)), pattern_(std::move(pattern)), ignore_case_(ignore_case) {}
  Score Evaluate(const Item& item) const override {
    const std::string* wanted = Column(item, column_);
    if (wanted == nullptr) return NoColumn(column_);
    const auto said = Extract(pattern_.get(), item.completion);
    if (!said) return {0, ""};
    return {Normal(*said) == Normal(*wanted) ? 1.0 : 0.0, ""};
  }
  std::vector<std::string> columns() const override { return {column_}; }

 private:
  std::string Normal(std::string_view text) const {
    std::string out(absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size())));
    if (ignore_case_) absl::AsciiStrToLower(&out);
    return out;
  }
  const std::string column_;
  const std::unique_ptr<RE2> pattern_;
  const bool ignore_case_;
};

class Numeric final : public Reward {
 public:
  Numeric(std::string column, std::unique_ptr<RE2> pattern, double tolerance)
      : column_(std::move(column)), pattern_(std::move(pattern)), tolerance_(tolerance) {}
  Score Evaluate(const Item& item) const override {
    const std::string* text = Column(item, column_);
    if (text == nullptr) return NoColumn(column_);
    const std::optional<double> wanted = AnswerNumber(*text);
    if (!wanted) return Score::Abstain(absl::StrCat("column \"", column_, "\" holds no number"));
    const auto said = Extract(pattern_.get(), item.completion);
    const std::optional<double> number = said ? AnswerNumber(*said) : std::nullopt;
    if (!number) return {0, ""};
    const double allowed = tolerance_ * std::max(1.0, std::abs(*wanted));
    return {std::abs(*number - *wanted) <= allowed ? 1.0 : 0.0, ""};
  }
  std::vector<std::string> columns() const override { return {column_}; }

 private:
  const std::string column_;
  const std::unique_ptr<RE2> pattern_;
  const double tolerance_;
};

class Regex final : public Reward {
 public:
  Regex(std::unique_ptr<RE2> pattern, bool full_match)
      : pattern_(std::move(pattern)), full_match_(full_match) {}
  Score Evaluate(const Item& item) const override {
    const re2::StringPiece text = Piece(item.completion);
    const bool matches =
        full_match_ ? RE2::FullMatch(text, *pattern_) : RE2::PartialMatch(text, *pattern_);
    return {matches ? 1.0 : 0.0, ""};
  }

 private:
  const std::unique_ptr<RE2> pattern_;
  const bool full_match_;
};

}  // namespace

MadeReward MakeExact(const Args& args) {
  ArgumentReader reader("exact", args);
  std::string column = reader.Text("column", "answer");
  auto pattern = Compile(&reader, "pattern", 1);
  const bool ignore_case = reader.Flag("ignore_case");
  if (absl::Status s = reader.Finish(); !s.ok()) return s;
  return std::make_unique<Exact>(std::move(column), std::move(pattern), ignore_case);
}

MadeReward MakeNumeric(const Args& args) {
  ArgumentReader reader("numeric", args);
  std::string column = reader.Text("column", "answer");
  auto pattern = Compile(&reader, "pattern", 1);
  const double tolerance = reader.Number("tolerance", 0, 1).value_or(1e-6);
  if (absl::Status s = reader.Finish(); !s.ok()) return s;
  return std::make_unique<Numeric>(std::move(column), std::move(pattern), tolerance);
}

MadeReward MakeRegex(const Args& args) {
  ArgumentReader reader("regex", args);
  auto pattern = Compile(&reader, "pattern", 0);
  reader.Require(pattern != nullptr, "pattern", "is required");
  const bool full_match = reader.Flag("full_match");
  if (absl::Status s = reader.Finish(); !s.ok()) return s;
  return std::make_unique<Regex>(std::move(pattern), full_match);
}

}  // namespace finetuned::reward
