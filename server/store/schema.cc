#include "server/store/schema.h"

#include "absl/strings/str_cat.h"

namespace finetuned::store {
namespace {

// Entry i leads from version i to i + 1. Never change one that was released.
const char* const kMigrations[kSchemaVersion] = {
    R"sql(
CREATE TABLE jobs (uid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
                   job BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (uid TEXT NOT NULL, sequence INTEGER NOT NULL, event BLOB NOT NULL,
                     PRIMARY KEY (uid, sequence)) WITHOUT ROWID;
CREATE TABLE metrics (uid TEXT NOT NULL, key TEXT NOT NULL, step INTEGER NOT NULL, attempt INTEGER NOT NULL,
                      value REAL, wall_time REAL NOT NULL,
                      PRIMARY KEY (uid, key, step)) WITHOUT ROWID;
CREATE TABLE checkpoints (uid TEXT NOT NULL, step INTEGER NOT NULL, checkpoint BLOB NOT NULL,
                          PRIMARY KEY (uid, step)) WITHOUT ROWID;
CREATE TABLE adapters (name TEXT PRIMARY KEY, created INTEGER NOT NULL, adapter BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE datasets (name TEXT PRIMARY KEY, created INTEGER NOT NULL, dataset BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE requests (id TEXT PRIMARY KEY, created INTEGER NOT NULL, digest TEXT NOT NULL,
                       response BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX requests_created ON requests (created);
)sql",
};

}  // namespace

absl::Status Migrate(Database& db) {
  absl::StatusOr<Statement> read = db.Prepare("PRAGMA user_version");
  if (!read.ok()) return read.status();
  const absl::StatusOr<bool> row = read->Step();
  if (!row.ok()) return row.status();
  const int64_t found = read->Int(0);
  read->Reset();
  if (found > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the job store has schema version ", found, "; this program knows up to ", kSchemaVersion,
                     ". Start the newer program that wrote it"));
  }
  for (int64_t version = found; version < kSchemaVersion; ++version) {
    const absl::Status status = db.Exec(absl::StrCat("BEGIN IMMEDIATE;", kMigrations[version],
                                                     "PRAGMA user_version=", version + 1, "; COMMIT;"));
    if (!status.ok()) {
      (void)db.Exec("ROLLBACK");
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace finetuned::store
