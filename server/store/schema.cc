#include "server/store/schema.h"

#include "absl/strings/str_cat.h"
#include "engine/job/failpoint.h"
#include "server/store/layout.h"

namespace finetuned::store {
namespace {

// kMigrations[i] leads from version i to i + 1. Never changed once released: add a row.
// Columns beside a message repeat what is searched for; the message is the truth.
constexpr const char* kMigrations[kSchemaVersion] = {
    R"sql(
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  uid TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  state INTEGER NOT NULL,
  method TEXT NOT NULL,
  priority INTEGER NOT NULL,
  create_time INTEGER NOT NULL,
  queue_order INTEGER NOT NULL,
  front INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  job BLOB NOT NULL
) STRICT;
CREATE INDEX jobs_by_state ON jobs(state);
CREATE INDEX jobs_by_time ON jobs(create_time, id);
CREATE INDEX jobs_by_priority ON jobs(priority, id);

CREATE TABLE events (
  job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  step INTEGER,
  event BLOB NOT NULL,
  PRIMARY KEY (job, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX events_by_step ON events(job, step, kind) WHERE step IS NOT NULL;

CREATE TABLE checkpoints (
  job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
  step INTEGER NOT NULL,
  directory TEXT NOT NULL,
  checkpoint BLOB NOT NULL,
  PRIMARY KEY (job, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE adapters (
  name TEXT PRIMARY KEY,
  source_job TEXT NOT NULL,
  directory TEXT NOT NULL,
  adapter BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE datasets (
  name TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL,
  owner TEXT NOT NULL,
  dataset BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX datasets_by_sha256 ON datasets(sha256);

CREATE TABLE uploads (
  dataset_id TEXT PRIMARY KEY,
  method TEXT NOT NULL,
  owner TEXT NOT NULL,
  committed INTEGER NOT NULL,
  update_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
  principal TEXT NOT NULL,
  request_id TEXT NOT NULL,
  method TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  response BLOB NOT NULL,
  time INTEGER NOT NULL,
  PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_time ON requests(time);

CREATE TABLE daemon_values (
  key TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
)sql",
};

}  // namespace

absl::Status Migrate(Database* db) {
  const auto version = db->Pragma("user_version");
  if (!version.ok()) return version.status();
  const auto application = db->Pragma("application_id");
  if (!application.ok()) return application.status();
  if (*version != 0 && *application != kApplicationId) {
    return absl::FailedPreconditionError("job store: the database belongs to another program");
  }
  if (*version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("job store: the database has version ", *version, ", this finetuned knows ",
                     kSchemaVersion, "; install the newer finetuned again"));
  }
  for (int64_t v = *version; v < kSchemaVersion; ++v) {
    const std::string sql =
        absl::StrCat("BEGIN IMMEDIATE;", kMigrations[v], "PRAGMA application_id=", kApplicationId,
                     ";PRAGMA user_version=", v + 1, ";COMMIT;");
    FT_FAILPOINT("store.migrate.before");
    if (absl::Status status = db->Execute(sql.c_str()); !status.ok()) {
      db->Execute("ROLLBACK").IgnoreError();
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace finetuned::store
