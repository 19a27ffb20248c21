#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include <sqlite3.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

namespace finetuned::store {

class Database;

// A prepared statement on loan from its database; reset when it goes out of scope.
class Statement {
 public:
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  Statement(Statement&& other) noexcept : statement_(other.statement_) { other.statement_ = nullptr; }
  Statement(const Statement&) = delete;
  ~Statement();

  // Binds the next parameter.
  Statement& Int(int64_t value);
  Statement& Text(std::string_view value);
  Statement& Blob(std::string_view value);
  Statement& Null();

  // True: a row can be read; false: done.
  absl::StatusOr<bool> Step();
  // For statements without rows.
  absl::Status Run();

  int64_t GetInt(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string GetBytes(int column) const;
  // Parses a message out of a column. DATA_LOSS names `what`.
  absl::Status GetMessage(int column, const char* what, google::protobuf::MessageLite* message) const;

 private:
  sqlite3_stmt* statement_;
  int bound_ = 0;
};

// One SQLite connection with its prepared statements. Not thread-safe.
class Database {
 public:
  // Opens, or creates when `writable`, the file. WAL and synchronous=FULL are set for writers.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, bool writable);
  ~Database();
  Database(const Database&) = delete;

  // Prepared once per text. CHECKs that the text is valid SQL for our schema.
  Statement Prepare(const char* sql);
  // Runs statements without parameters or rows.
  absl::Status Execute(const char* sql);
  absl::StatusOr<int64_t> Pragma(const char* name);
  int64_t changes() const { return sqlite3_changes64(db_); }

 private:
  explicit Database(sqlite3* db) : db_(db) {}
  sqlite3* db_;
  std::map<const char*, sqlite3_stmt*> statements_;
};

// The status of a SQLite result code: disk full, I/O error, damage and constraint are told apart.
absl::Status ToStatus(sqlite3* db, int code);

}  // namespace finetuned::store
