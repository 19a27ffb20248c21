#include "server/api/names.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/crc32c.h"
#include "server/api/error.h"

namespace finetuned::api {

bool IsValidId(std::string_view id) {
  if (id.size() < 3 || id.size() > 63 || id[0] < 'a' || id[0] > 'z') return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

absl::StatusOr<std::string> ParseName(std::string_view collection, std::string_view name,
                                      const std::string& field) {
  const std::string prefix = std::string(collection) + "/";
  if (name.starts_with(prefix) && IsValidId(name.substr(prefix.size()))) {
    return std::string(name.substr(prefix.size()));
  }
  return InvalidField(field, absl::StrCat("must be ", prefix, "ID with an id of [a-z][a-z0-9-]{2,62}, got \"",
                                          absl::CHexEscape(absl::string_view(name.data(), std::min<size_t>(name.size(), 100))), "\""));
}

std::string EncodePageToken(std::string_view query, std::string_view last) {
  const uint32_t check = spec::Crc32c(std::string(query) + '\0' + std::string(last));
  std::string raw(sizeof(check), '\0');
  std::memcpy(raw.data(), &check, sizeof(check));
  raw += last;
  return absl::WebSafeBase64Escape(raw);
}

absl::StatusOr<std::string> DecodePageToken(std::string_view query, const std::string& token) {
  if (token.empty()) return std::string();
  std::string raw;
  uint32_t check = 0;
  if (token.size() < 4096 && absl::WebSafeBase64Unescape(token, &raw) && raw.size() >= sizeof(check)) {
    std::memcpy(&check, raw.data(), sizeof(check));
    raw.erase(0, sizeof(check));
    if (check == spec::Crc32c(std::string(query) + '\0' + raw)) return raw;
  }
  return InvalidField("page_token", "is not a token this listing gave out; start again without one");
}

absl::StatusOr<int> PageSize(int sent, int standard, int most) {
  if (sent < 0) return InvalidField("page_size", absl::StrCat("must be 0 to ", most, ", got ", sent));
  return sent == 0 ? standard : std::min(sent, most);
}

}  // namespace finetuned::api
