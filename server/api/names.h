#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace finetuned::api {

// [a-z][a-z0-9-]{2,62}
bool IsValidId(std::string_view id);

// The id in "COLLECTION/{id}". INVALID_ARGUMENT names `field` and what is allowed.
absl::StatusOr<std::string> ParseName(std::string_view collection, std::string_view name,
                                      const std::string& field = "name");

// Where a listing goes on: opaque to clients. Checked for damage and for belonging to the same query.
std::string EncodePageToken(std::string_view query, std::string_view last);
// What EncodePageToken got as `last`; empty for an empty token. INVALID_ARGUMENT: not one of ours.
absl::StatusOr<std::string> DecodePageToken(std::string_view query, const std::string& token);

// page_size as sent: 0 means `standard`, larger than `most` means `most`. INVALID_ARGUMENT: negative.
absl::StatusOr<int> PageSize(int sent, int standard, int most);

}  // namespace finetuned::api
