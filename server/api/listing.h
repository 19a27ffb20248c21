#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/api/list_filter.h"
#include "server/api/names.h"

namespace finetuned::api {

// The frame of listings by name: reads pages of rows, keeps what the filter matches, until `size` items
// are there. `read(after, limit)` gives rows in the order of their names; `item` a row's message with a
// name(); `value_of` a field of an item; `may_see` says which rows the caller is shown. Returns the token for the next page.
template <typename Row, typename Item>
absl::StatusOr<std::string> ListByName(
    const std::string& kind, const std::string& filter_text, const std::vector<std::string>& fields,
    const std::string& page_token, int size,
    const std::function<absl::StatusOr<std::vector<Row>>(const std::string&, int)>& read,
    const std::function<const Item&(const Row&)>& item,
    const std::function<std::optional<std::string>(const Item&, const std::string&)>& value_of,
    const std::function<bool(const Row&)>& may_see,
    std::vector<Item>* out) {
  const absl::StatusOr<ListFilter> filter = ListFilter::Parse(filter_text, fields);
  if (!filter.ok()) return filter.status();
  const std::string query = absl::StrCat(kind, " ", filter_text);
  absl::StatusOr<std::string> after = DecodePageToken(query, page_token);
  if (!after.ok()) return after.status();
  for (;;) {
    const absl::StatusOr<std::vector<Row>> rows = read(*after, size + 1);
    if (!rows.ok()) return rows.status();
    for (const Row& row : *rows) {
      const Item& one = item(row);
      if (!may_see(row) || !filter->Matches([&](const std::string& field) { return value_of(one, field); })) {
        *after = one.name();
        continue;
      }
      if (out->size() == static_cast<size_t>(size)) return EncodePageToken(query, *after);
      out->push_back(one);
      *after = one.name();
    }
    if (rows->size() <= static_cast<size_t>(size)) return std::string();
  }
}

}  // namespace finetuned::api
