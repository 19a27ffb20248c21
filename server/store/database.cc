#include "server/store/database.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace finetuned::store {

absl::Status ToStatus(sqlite3* db, int code) {
  const std::string message = absl::StrCat("job store: ", sqlite3_errmsg(db));
  switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE: return absl::OkStatus();
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(
          "job store: the disk of the state directory is full; nothing was changed, free space and try "
          "again");
    case SQLITE_IOERR: return absl::UnavailableError(absl::StrCat(message, " (code ", code, ")"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return absl::UnavailableError(absl::StrCat(message, "; another process uses it"));
    case SQLITE_CONSTRAINT: return absl::AlreadyExistsError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return absl::DataLossError(message);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN: return absl::FailedPreconditionError(message);
    default: return absl::InternalError(absl::StrCat(message, " (code ", code, ")"));
  }
}

Statement::~Statement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

Statement& Statement::Int(int64_t value) {
  sqlite3_bind_int64(statement_, ++bound_, value);
  return *this;
}

Statement& Statement::Text(std::string_view value) {
  sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::Blob(std::string_view value) {
  // A null pointer would bind NULL: an empty message is an empty blob.
  sqlite3_bind_blob64(statement_, ++bound_, value.empty() ? "" : value.data(), value.size(),
                      SQLITE_TRANSIENT);
  return *this;
}

Statement& Statement::Null() {
  sqlite3_bind_null(statement_, ++bound_);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return ToStatus(sqlite3_db_handle(statement_), code);
}

absl::Status Statement::Run() { return Step().status(); }

std::string Statement::GetBytes(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
}

absl::Status Statement::GetMessage(int column, const char* what,
                                   google::protobuf::MessageLite* message) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  if (message->ParseFromArray(data, size)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("job store: a row of ", what, " cannot be read"));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, bool writable) {
  sqlite3* handle = nullptr;
  const int flags = writable ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> db(new Database(handle));
  if (code != SQLITE_OK) return ToStatus(handle, code);
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 5000);
  // FULL: every commit is synced, so an answered call survives a power cut. Temporary data stays in
  // memory, where a full disk cannot hurt it.
  const char* setup = writable ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;"
                                 "PRAGMA foreign_keys=ON; PRAGMA wal_autocheckpoint=1000;"
                               : "PRAGMA temp_store=MEMORY;";
  if (absl::Status status = db->Execute(setup); !status.ok()) return status;
  return db;
}

Database::~Database() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(db_);
}

Statement Database::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr &&
      sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) != SQLITE_OK) {
    std::fprintf(stderr, "bad statement: %s\n%s\n", sqlite3_errmsg(db_), sql);
    std::abort();
  }
  return Statement(statement);
}

absl::Status Database::Execute(const char* sql) {
  return ToStatus(db_, sqlite3_exec(db_, sql, nullptr, nullptr, nullptr));
}

absl::StatusOr<int64_t> Database::Pragma(const char* name) {
  sqlite3_stmt* statement = nullptr;
  const std::string sql = absl::StrCat("PRAGMA ", name);
  int code = sqlite3_prepare_v2(db_, sql.c_str(), -1, &statement, nullptr);
  int64_t value = 0;
  if (code == SQLITE_OK) code = sqlite3_step(statement);
  if (code == SQLITE_ROW) value = sqlite3_column_int64(statement, 0);
  const absl::Status status = ToStatus(db_, code);
  sqlite3_finalize(statement);
  if (!status.ok()) return status;
  return value;
}

}  // namespace finetuned::store
