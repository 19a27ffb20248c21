#include "server/api/list_filter.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/spec/nearest.h"
#include "server/api/error.h"

namespace finetuned::api {
namespace {

constexpr size_t kMaxFilterBytes = 4096;

absl::Status Bad(const std::string& what) { return InvalidField("filter", what); }

bool IsKnown(const std::string& field, const std::vector<std::string>& fields) {
  for (const std::string& known : fields) {
    const bool is_prefix = absl::EndsWith(known, ".");
    if (is_prefix ? absl::StartsWith(field, known) && field.size() > known.size() : field == known) return true;
  }
  return false;
}

std::string Unquote(absl::string_view text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return std::string(text);
}

absl::StatusOr<ListFilter::Term> ParseTerm(absl::string_view text, const std::vector<std::string>& fields) {
  ListFilter::Term term;
  const size_t at = text.find('=');
  if (at == absl::string_view::npos || at == 0) {
    return Bad(absl::StrCat("\"", text, "\" is not of the form field = value or field != value"));
  }
  term.equal = text[at - 1] != '!';
  term.field = std::string(absl::StripAsciiWhitespace(text.substr(0, term.equal ? at : at - 1)));
  term.value = Unquote(absl::StripAsciiWhitespace(text.substr(at + 1)));
  if (!IsKnown(term.field, fields)) {
    const std::string near = spec::Nearest(term.field, fields);
    return Bad(absl::StrCat("unknown field \"", term.field, "\"; allowed: ", absl::StrJoin(fields, ", "),
                            near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
  }
  return term;
}

}  // namespace

absl::StatusOr<ListFilter> ListFilter::Parse(const std::string& text,
                                             const std::vector<std::string>& fields) {
  ListFilter filter;
  if (text.size() > kMaxFilterBytes) return Bad("is too long");
  if (absl::StripAsciiWhitespace(text).empty()) return filter;
  const std::string spaced = text + " ";  // so that a last AND is seen as one
  for (absl::string_view part : absl::StrSplit(spaced, " AND ")) {
    absl::StatusOr<Term> term = ParseTerm(absl::StripAsciiWhitespace(part), fields);
    if (!term.ok()) return term.status();
    filter.terms_.push_back(*std::move(term));
  }
  return filter;
}

bool ListFilter::Matches(
    const std::function<std::optional<std::string>(const std::string&)>& value_of) const {
  for (const Term& term : terms_) {
    const std::optional<std::string> value = value_of(term.field);
    if ((value.has_value() && *value == term.value) != term.equal) return false;
  }
  return true;
}

}  // namespace finetuned::api
