#include "engine/text/pre_tokenizer.h"

#include <algorithm>

#include "engine/text/regex.h"
#include "engine/text/unicode.h"

namespace finetuned::text {
namespace {

using nlohmann::json;
// Finds the next match at or after a byte.
using Finder = std::function<bool(std::string_view, size_t, ByteRange*)>;

// GPT-2's pattern: contractions, words, numbers, other characters, spaces.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// \w of the reference: PCRE2's own leaves out marks.
constexpr char kWordsPattern[] =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\s\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+)";

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior ParseBehavior(const std::string& name) {
  static const std::pair<const char*, Behavior> kNames[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  throw TokenizerError{true, "pre_tokenizer: split behavior " + name + " is not known"};
}

struct Segment {
  ByteRange range;
  bool match = false;
};

std::vector<Segment> Segments(std::string_view text, const Finder& find, bool invert) {
  std::vector<Segment> out;
  size_t done = 0, from = 0;
  ByteRange m;
  while (from <= text.size() && find(text, from, &m)) {
    if (m.end == m.begin) {  // an empty match: look on one character further
      from = m.end < text.size() ? m.end + DecodeAt(text, m.end).bytes : m.end + 1;
      continue;
    }
    if (m.begin > done) out.push_back({{done, m.begin}, invert});
    out.push_back({m, !invert});
    done = from = m.end;
  }
  if (done < text.size()) out.push_back({{done, text.size()}, invert});
  return out;
}

std::vector<ByteRange> Merge(const std::vector<Segment>& segments, Behavior behavior) {
  std::vector<ByteRange> out;
  bool previous = false;
  switch (behavior) {
    case Behavior::kIsolated:
      for (const Segment& s : segments) out.push_back(s.range);
      break;
    case Behavior::kRemoved:
      for (const Segment& s : segments) {
        if (!s.match) out.push_back(s.range);
      }
      break;
    case Behavior::kContiguous:
      for (const Segment& s : segments) {
        if (s.match == previous && !out.empty()) {
          out.back().end = s.range.end;
        } else {
          out.push_back(s.range);
        }
        previous = s.match;
      }
      break;
    case Behavior::kMergedWithPrevious:
      for (const Segment& s : segments) {
        if (s.match && !previous && !out.empty()) {
          out.back().end = s.range.end;
        } else {
          out.push_back(s.range);
        }
        previous = s.match;
      }
      break;
    case Behavior::kMergedWithNext:
      for (auto s = segments.rbegin(); s != segments.rend(); ++s) {
        if (s->match && !previous && !out.empty()) {
          out.back().begin = s->range.begin;
        } else {
          out.push_back(s->range);
        }
        previous = s->match;
      }
      std::reverse(out.begin(), out.end());
      break;
  }
  return out;
}

void Split(const Finder& find, Behavior behavior, bool invert, std::vector<Piece>* pieces) {
  std::vector<Piece> out;
  for (const Piece& piece : *pieces) {
    for (const ByteRange& r : Merge(Segments(piece.part.text, find, invert), behavior)) {
      out.push_back({piece.part.Part(r.begin, r.end), piece.byte_level});
    }
  }
  *pieces = std::move(out);
}

Finder FindRegex(const std::string& pattern) {
  return [regex = Regex(pattern)](std::string_view s, size_t at, ByteRange* m) { return regex.Find(s, at, m); };
}

Finder FindString(const std::string& what) {
  return [what](std::string_view s, size_t at, ByteRange* m) {
    const size_t found = s.find(what, at);
    if (found == std::string_view::npos || what.empty()) return false;
    *m = {found, found + what.size()};
    return true;
  };
}

Finder FindCharacter(bool (*is)(uint32_t)) {
  return [is](std::string_view s, size_t at, ByteRange* m) {
    for (size_t i = at; i < s.size();) {
      const CodePoint c = DecodeAt(s, i);
      if (is(c.value)) {
        *m = {i, i + c.bytes};
        return true;
      }
      i += c.bytes;
    }
    return false;
  };
}

void PrependTo(const std::string& prefix, MappedText* m) {
  m->text.insert(0, prefix);
  m->from.insert(m->from.begin(), prefix.size(), m->from.front());
}

PreTokenizer ByteLevel(const json& j) {
  const bool add_space = j.value("add_prefix_space", true);
  const Finder find = j.value("use_regex", true) ? FindRegex(kGpt2Pattern) : Finder();
  return [add_space, find](std::vector<Piece>* pieces) {
    for (Piece& p : *pieces) {
      if (add_space && !p.part.text.empty() && p.part.text[0] != ' ') PrependTo(" ", &p.part);
    }
    if (find) Split(find, Behavior::kIsolated, false, pieces);
    for (Piece& p : *pieces) p.byte_level = true;
  };
}

PreTokenizer Metaspace(const json& j) {
  const std::string mark = j.value("replacement", std::string("▁"));
  const std::string scheme =
      j.value("prepend_scheme", std::string(j.value("add_prefix_space", true) ? "always" : "never"));
  const bool split = j.value("split", true);
  return [mark, scheme, split](std::vector<Piece>* pieces) {
    bool first = true;
    for (Piece& p : *pieces) {
      ReplaceAll(" ", mark, &p.part);
      const bool at_start = first && !p.part.from.empty() && p.part.from.front() == 0;
      const bool wanted = scheme == "always" || (scheme == "first" && at_start);
      if (wanted && !p.part.text.empty() && p.part.text.compare(0, mark.size(), mark) != 0) {
        PrependTo(mark, &p.part);
      }
      first = false;
    }
    if (split) Split(FindString(mark), Behavior::kMergedWithNext, false, pieces);
  };
}

PreTokenizer SplitWith(Finder find, Behavior behavior, bool invert = false) {
  return [find = std::move(find), behavior, invert](std::vector<Piece>* pieces) {
    Split(find, behavior, invert, pieces);
  };
}

}  // namespace

PreTokenizer MakePreTokenizer(const json& j, int depth) {
  if (j.is_null()) return [](std::vector<Piece>*) {};
  if (depth > 16) throw TokenizerError{false, "pre_tokenizer: nested too deep"};
  const std::string type = j.at("type");
  if (type == "Sequence") {
    std::vector<PreTokenizer> parts;
    for (const json& part : j.at("pretokenizers")) parts.push_back(MakePreTokenizer(part, depth + 1));
    return [parts](std::vector<Piece>* pieces) {
      for (const PreTokenizer& part : parts) part(pieces);
    };
  }
  if (type == "Split") {
    const Behavior behavior = ParseBehavior(j.at("behavior"));
    const json& pattern = j.at("pattern");
    Finder find = pattern.contains("Regex") ? FindRegex(pattern.at("Regex")) : FindString(pattern.at("String"));
    return SplitWith(std::move(find), behavior, j.value("invert", false));
  }
  if (type == "Digits") {
    return SplitWith(FindCharacter(IsNumber),
                     j.value("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous);
  }
  if (type == "Punctuation") {
    return SplitWith(FindCharacter(IsPunctuation), ParseBehavior(j.value("behavior", std::string("Isolated"))));
  }
  if (type == "WhitespaceSplit") return SplitWith(FindCharacter(IsWhitespace), Behavior::kRemoved);
  if (type == "Whitespace") return SplitWith(FindRegex(kWordsPattern), Behavior::kRemoved, /*invert=*/true);
  if (type == "ByteLevel") return ByteLevel(j);
  if (type == "Metaspace") return Metaspace(j);
  throw TokenizerError{true, "pre_tokenizer " + type + " is not supported (known: Sequence, Split, Digits, "
                             "Punctuation, Whitespace, WhitespaceSplit, ByteLevel, Metaspace)"};
}

}  // namespace finetuned::text
