#include "engine/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "engine/text/regex.h"
#include "engine/text/unicode.h"

namespace finetuned::text {
namespace {

using nlohmann::json;

// Whether this code point may combine with the one before it under any normal form.
bool JoinsPrevious(uint32_t c) {
  const auto* p = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  return p->combining_class != 0 || p->boundclass == UTF8PROC_BOUNDCLASS_EXTEND ||
         p->boundclass == UTF8PROC_BOUNDCLASS_SPACINGMARK || p->boundclass == UTF8PROC_BOUNDCLASS_V ||
         p->boundclass == UTF8PROC_BOUNDCLASS_T;
}

// Works segment by segment, so that the byte map stays exact outside of segments that change.
void UnicodeForm(bool compatible, bool compose, MappedText* m) {
  const auto ascii = [](unsigned char c) { return c < 0x80; };
  if (std::all_of(m->text.begin(), m->text.end(), ascii)) return;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0));
  MappedText out;
  for (size_t i = 0; i < m->text.size();) {
    size_t end = i + DecodeAt(m->text, i).bytes;
    while (end < m->text.size()) {
      const CodePoint c = DecodeAt(m->text, end);
      if (!JoinsPrevious(c.value)) break;
      end += c.bytes;
    }
    utf8proc_uint8_t* mapped = nullptr;
    const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(m->text.data()) + i,
                                static_cast<utf8proc_ssize_t>(end - i), &mapped, options);
    if (n < 0) throw TokenizerError{false, std::string("normalization: ") + utf8proc_errmsg(n)};
    const std::string_view result(reinterpret_cast<char*>(mapped), static_cast<size_t>(n));
    const bool same = result == std::string_view(m->text).substr(i, end - i);
    for (size_t k = 0; k < result.size(); ++k) out.from.push_back(m->from[same ? i + k : i]);
    out.text += result;
    std::free(mapped);
    i = end;
  }
  *m = std::move(out);
}

void ReplacePattern(const Regex& regex, const std::string& with, MappedText* m) {
  MappedText out;
  size_t at = 0;
  const auto copy = [&](size_t end) {
    out.text.append(m->text, at, end - at);
    out.from.insert(out.from.end(), m->from.begin() + static_cast<ptrdiff_t>(at),
                    m->from.begin() + static_cast<ptrdiff_t>(end));
  };
  ByteRange match;
  while (at < m->text.size() && regex.Find(m->text, at, &match) && match.end > match.begin) {
    copy(match.begin);
    out.text += with;
    out.from.insert(out.from.end(), with.size(), m->from[match.begin]);
    at = match.end;
  }
  copy(m->text.size());
  *m = std::move(out);
}

void Lowercase(MappedText* m) {
  MappedText out;
  for (size_t i = 0; i < m->text.size();) {
    const CodePoint c = DecodeAt(m->text, i);
    const size_t before = out.text.size();
    AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))), &out.text);
    out.from.insert(out.from.end(), out.text.size() - before, m->from[i]);
    i += c.bytes;
  }
  *m = std::move(out);
}

void Strip(bool left, bool right, MappedText* m) {
  size_t begin = 0, end = m->text.size();
  while (left && begin < end && IsWhitespace(DecodeAt(m->text, begin).value)) begin += DecodeAt(m->text, begin).bytes;
  while (right && end > begin && IsWhitespace(DecodeBefore(m->text, end).value)) end -= DecodeBefore(m->text, end).bytes;
  *m = m->Part(begin, end);
}

void Prepend(const std::string& prefix, MappedText* m) {
  if (m->text.empty()) return;
  m->text.insert(0, prefix);
  m->from.insert(m->from.begin(), prefix.size(), m->from.front());
}

}  // namespace

MappedText MappedText::Of(std::string_view original, size_t begin, size_t end) {
  MappedText m{std::string(original.substr(begin, end - begin)), std::vector<size_t>(end - begin)};
  for (size_t i = 0; i < m.from.size(); ++i) m.from[i] = begin + i;
  return m;
}

MappedText MappedText::Part(size_t begin, size_t end) const {
  return {text.substr(begin, end - begin),
          {from.begin() + static_cast<ptrdiff_t>(begin), from.begin() + static_cast<ptrdiff_t>(end)}};
}

void ReplaceAll(const std::string& what, const std::string& with, MappedText* m) {
  if (what.empty() || m->text.find(what) == std::string::npos) return;
  MappedText out;
  for (size_t i = 0; i < m->text.size();) {
    if (m->text.compare(i, what.size(), what) == 0) {
      out.text += with;
      out.from.insert(out.from.end(), with.size(), m->from[i]);
      i += what.size();
    } else {
      out.text += m->text[i];
      out.from.push_back(m->from[i]);
      ++i;
    }
  }
  *m = std::move(out);
}

Normalizer MakeNormalizer(const json& j, int depth) {
  if (j.is_null()) return [](MappedText*) {};
  if (depth > 16) throw TokenizerError{false, "normalizer: nested too deep"};
  const std::string type = j.at("type");
  if (type == "Sequence") {
    std::vector<Normalizer> parts;
    for (const json& part : j.at("normalizers")) parts.push_back(MakeNormalizer(part, depth + 1));
    return [parts](MappedText* m) {
      for (const Normalizer& part : parts) part(m);
    };
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    return [compatible = type.size() == 4, compose = type.back() == 'C'](MappedText* m) {
      UnicodeForm(compatible, compose, m);
    };
  }
  if (type == "Prepend") {
    return [prefix = j.at("prepend").get<std::string>()](MappedText* m) { Prepend(prefix, m); };
  }
  if (type == "Replace") {
    const std::string with = j.at("content");
    const json& pattern = j.at("pattern");
    if (pattern.contains("String")) {
      return [what = pattern.at("String").get<std::string>(), with](MappedText* m) { ReplaceAll(what, with, m); };
    }
    return [regex = Regex(pattern.at("Regex").get<std::string>()), with](MappedText* m) {
      ReplacePattern(regex, with, m);
    };
  }
  if (type == "Lowercase") return Lowercase;
  if (type == "Strip") {
    return [left = j.value("strip_left", true), right = j.value("strip_right", true)](MappedText* m) {
      Strip(left, right, m);
    };
  }
  throw TokenizerError{true, "normalizer " + type + " is not supported (known: Sequence, NFC, NFD, NFKC, NFKD, "
                             "Prepend, Replace, Lowercase, Strip)"};
}

}  // namespace finetuned::text
