#include "engine/data/file_kind.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace finetuned::data {
namespace {

using std::string_view_literals::operator""sv;

struct Signature {
  std::string_view bytes;
  const char* name;
  const char* advice;
};

constexpr const char* kUnpack = "unpack it first";
constexpr const char* kConvert = "convert it to UTF-8, for example with iconv";
constexpr const char* kExport = "export it as JSON lines";

// UTF-32LE before UTF-16LE: its mark begins with the other's.
constexpr Signature kSignatures[] = {
    {"\xFF\xFE\x00\x00"sv, "UTF-32LE text", kConvert},
    {"\x00\x00\xFE\xFF"sv, "UTF-32BE text", kConvert},
    {"\xFF\xFE"sv, "UTF-16LE text", kConvert},
    {"\xFE\xFF"sv, "UTF-16BE text", kConvert},
    {"{\x00"sv, "UTF-16LE text without a byte order mark", kConvert},
    {"\x00{"sv, "UTF-16BE text without a byte order mark", kConvert},
    {"\x1F\x8B"sv, "gzip data", kUnpack},
    {"\x28\xB5\x2F\xFD"sv, "zstd data", kUnpack},
    {"\xFD\x37zXZ\x00"sv, "xz data", kUnpack},
    {"BZh"sv, "bzip2 data", kUnpack},
    {"PK\x03\x04"sv, "a zip archive", kUnpack},
    {"PAR1"sv, "a Parquet file", kExport},
    {"ARROW1"sv, "an Arrow file", kExport},
    {"\xFF\xFF\xFF\xFF"sv, "an Arrow stream or other binary data", kExport},
    {"SQLite format 3"sv, "an SQLite database", kExport},
    {"GGUF"sv, "a GGUF model file", "name a dataset"},
    {"\x80\x02"sv, "a Python pickle", kExport},
    {"\x80\x04"sv, "a Python pickle", kExport},
};

}  // namespace

std::optional<RowError> WrongFileKind(std::string_view head) {
  for (const Signature& signature : kSignatures) {
    if (head.substr(0, signature.bytes.size()) != signature.bytes) continue;
    return RowError{
        1, "", "NOT_UTF8_TEXT",
        absl::StrCat("the file is ", signature.name,
                     ", but UTF-8 text with one JSON object a line is needed; ", signature.advice)};
  }
  return std::nullopt;
}

bool OpensJsonArray(std::string_view first_row) {
  const size_t open = first_row.find_first_not_of(" \t\r");
  if (open == std::string_view::npos || first_row[open] != '[') return false;
  const size_t next = first_row.find_first_not_of(" \t\r", open + 1);
  if (next == std::string_view::npos || first_row[next] == '{') return true;
  const size_t last = first_row.find_last_not_of(" \t\r");
  return first_row[last] != ']';
}

}  // namespace finetuned::data
