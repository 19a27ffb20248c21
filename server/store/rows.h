#pragma once

#include <google/protobuf/timestamp.pb.h>

#include "server/store/database.h"
#include "server/store/store.h"

// Helpers shared by the files of the store.
namespace finetuned::store {

inline int64_t ToNanos(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1'000'000'000 + time.nanos();
}


absl::Status PutRequestRow(Database* db, const RequestRecord& request);

// Collects the rows of `statement`, each made by `read`.
template <typename T, typename Read>
absl::StatusOr<std::vector<T>> Collect(Statement* statement, Read read) {
  std::vector<T> rows;
  for (;;) {
    const auto more = statement->Step();
    if (!more.ok()) return more.status();
    if (!*more) return rows;
    T row;
    if (absl::Status status = read(*statement, &row); !status.ok()) return status;
    rows.push_back(std::move(row));
  }
}

// The only row, or NOT_FOUND.
template <typename T, typename Read>
absl::StatusOr<T> One(Statement* statement, const std::string& what, Read read) {
  const auto more = statement->Step();
  if (!more.ok()) return more.status();
  if (!*more) return absl::NotFoundError(what + " does not exist");
  T row;
  if (absl::Status status = read(*statement, &row); !status.ok()) return status;
  return row;
}

}  // namespace finetuned::store
