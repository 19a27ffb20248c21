#include "engine/text/decoder.h"

#include <cctype>

#include "engine/text/bpe.h"
#include "engine/text/normalizer.h"
#include "engine/text/regex.h"
#include "engine/text/unicode.h"

namespace finetuned::text {
namespace {

using nlohmann::json;
using Pieces = std::vector<std::string>;

std::string Replaced(const std::string& text, const std::string& what, const std::string& with) {
  MappedText m = MappedText::Of(text, 0, text.size());
  ReplaceAll(what, with, &m);
  return m.text;
}

void ByteLevelDecode(Pieces* pieces) {
  std::string bytes;
  for (const std::string& piece : *pieces) {
    std::string decoded;
    bool all = true;
    for (size_t i = 0; i < piece.size() && all;) {
      const CodePoint c = DecodeAt(piece, i);
      const int byte = ByteOf(c.value);
      all = byte >= 0;
      decoded += static_cast<char>(byte);
      i += c.bytes;
    }
    bytes += all ? decoded : piece;  // added tokens are plain text
  }
  *pieces = {LossyUtf8(bytes)};
}

bool IsByteToken(const std::string& s) {
  return s.size() == 6 && s.rfind("<0x", 0) == 0 && s[5] == '>' && std::isxdigit(static_cast<unsigned char>(s[3])) &&
         std::isxdigit(static_cast<unsigned char>(s[4]));
}

// Runs of byte tokens become text when they are valid UTF-8, else one U+FFFD per byte.
void ByteFallbackDecode(Pieces* pieces) {
  Pieces out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (FindInvalidUtf8(bytes) == std::string::npos) {
      out.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out.push_back("\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (const std::string& piece : *pieces) {
    if (IsByteToken(piece)) {
      bytes += static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
    } else {
      flush();
      out.push_back(piece);
    }
  }
  flush();
  *pieces = std::move(out);
}

void StripDecode(const std::string& content, int start, int stop, Pieces* pieces) {
  for (std::string& p : *pieces) {
    for (int i = 0; i < start && p.rfind(content, 0) == 0; ++i) p.erase(0, content.size());
    for (int i = 0; i < stop && p.ends_with(content); ++i) p.resize(p.size() - content.size());
  }
}

void MetaspaceDecode(const std::string& mark, bool prepended, Pieces* pieces) {
  for (size_t i = 0; i < pieces->size(); ++i) {
    std::string& p = (*pieces)[i];
    if (i == 0 && prepended && p.rfind(mark, 0) == 0) p.erase(0, mark.size());
    p = Replaced(p, mark, " ");
  }
}

}  // namespace

Decoder MakeDecoder(const json& j, int depth) {
  if (j.is_null()) {
    return [](Pieces* pieces) {
      for (size_t i = 1; i < pieces->size(); ++i) (*pieces)[i].insert(0, " ");
    };
  }
  if (depth > 16) throw TokenizerError{false, "decoder: nested too deep"};
  const std::string type = j.at("type");
  if (type == "Sequence") {
    std::vector<Decoder> parts;
    for (const json& part : j.at("decoders")) parts.push_back(MakeDecoder(part, depth + 1));
    return [parts](Pieces* pieces) {
      for (const Decoder& part : parts) part(pieces);
    };
  }
  if (type == "ByteLevel") return ByteLevelDecode;
  if (type == "ByteFallback") return ByteFallbackDecode;
  if (type == "Fuse") {
    return [](Pieces* pieces) {
      std::string all;
      for (const std::string& p : *pieces) all += p;
      *pieces = {all};
    };
  }
  if (type == "Replace" && j.at("pattern").contains("String")) {
    return [what = j["pattern"]["String"].get<std::string>(), with = j.at("content").get<std::string>()](Pieces* pieces) {
      for (std::string& p : *pieces) p = Replaced(p, what, with);
    };
  }
  if (type == "Strip") {
    return [content = j.at("content").get<std::string>(), start = j.at("start").get<int>(),
            stop = j.at("stop").get<int>()](Pieces* pieces) { StripDecode(content, start, stop, pieces); };
  }
  if (type == "Metaspace") {
    return [mark = j.value("replacement", std::string("▁")),
            prepended = j.value("prepend_scheme", std::string("always")) != "never"](Pieces* pieces) {
      MetaspaceDecode(mark, prepended, pieces);
    };
  }
  throw TokenizerError{true, "decoder " + type + " is not supported (known: Sequence, ByteLevel, ByteFallback, Fuse, "
                             "Replace, Strip, Metaspace)"};
}

}  // namespace finetuned::text
