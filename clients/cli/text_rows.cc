#include "clients/cli/text_rows.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "clients/cli/client.h"

namespace finetuned::cli {
namespace {

constexpr size_t kRowBytes = 128 << 10;

// Bytes of the next row: as many whole lines as fit, at least one.
size_t RowEnd(absl::string_view text) {
  if (text.size() <= kRowBytes) return text.size();
  const size_t last = text.rfind('\n', kRowBytes - 1);
  const size_t end = last != absl::string_view::npos ? last : text.find('\n');
  return end == absl::string_view::npos ? text.size() : end + 1;
}

}  // namespace

std::string TextAsRows(absl::string_view text, const std::string& name) {
  std::string rows;
  while (!text.empty()) {
    const size_t end = RowEnd(text);
    google::protobuf::Struct row;
    (*row.mutable_fields())["text"].set_string_value(std::string(text.substr(0, end)));
    std::string json;
    if (!google::protobuf::util::MessageToJsonString(row, &json).ok()) {
      throw CommandError{kUsage, absl::StrCat(name, ": is not UTF-8 text")};
    }
    absl::StrAppend(&rows, json, "\n");
    text.remove_prefix(end);
  }
  if (rows.empty()) throw CommandError{kUsage, absl::StrCat(name, ": is empty")};
  return rows;
}

}  // namespace finetuned::cli
