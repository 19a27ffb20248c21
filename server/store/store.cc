#include "server/store/store.h"

#include <sys/stat.h>

#include <filesystem>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/job/failpoint.h"
#include "proto/spec/tools.h"
#include "server/store/database.h"
#include "server/store/rows.h"
#include "server/store/schema.h"
#include "server/store/sync.h"

namespace finetuned::store {
namespace {

constexpr char kPutJob[] =
    "INSERT INTO jobs(uid, name, state, method, priority, create_time, queue_order, front, crashes,"
    " last_sequence, job) VALUES(?,?,?,?,?,?,?,?,?,0,?) ON CONFLICT(uid) DO UPDATE SET state=excluded.state,"
    " priority=excluded.priority, queue_order=excluded.queue_order, front=excluded.front,"
    " crashes=excluded.crashes, job=excluded.job";

absl::Status PutJob(Database* db, const JobRecord& record) {
  const v1::Job& job = record.job;
  return db->Prepare(kPutJob)
      .Text(job.uid())
      .Text(job.name())
      .Int(job.state())
      .Text(spec::MethodName(job.spec()))
      .Int(job.scheduling().priority())
      .Int(ToNanos(job.create_time()))
      .Int(record.queue_order)
      .Int(record.front)
      .Int(record.crashes)
      .Blob(job.SerializeAsString())
      .Run();
}

// Numbers the event with the next sequence of its job and appends it.
absl::Status AppendEvent(Database* db, EventRecord* record) {
  auto next = db->Prepare("UPDATE jobs SET last_sequence = last_sequence + 1 WHERE uid = ?"
                          " RETURNING id, last_sequence, name");
  const auto row = next.Text(record->uid).Step();
  if (!row.ok()) return row.status();
  if (!*row) return absl::NotFoundError(absl::StrCat("job store: no job with uid ", record->uid));
  const int64_t id = next.GetInt(0);
  v1::Event& event = record->event;
  event.set_sequence(next.GetInt(1));
  event.set_name(absl::StrCat(next.GetBytes(2), "/events/", event.sequence()));
  if (const auto end = next.Step(); !end.ok()) return end.status();
  auto insert = db->Prepare("INSERT INTO events(job, sequence, kind, step, event) VALUES(?,?,?,?,?)");
  insert.Int(id).Int(event.sequence()).Int(event.payload_case());
  if (event.has_metrics()) {
    insert.Int(event.metrics().step());
  } else if (event.has_eval()) {
    insert.Int(event.eval().step());
  } else {
    insert.Null();
  }
  return insert.Blob(event.SerializeAsString()).Run();
}

absl::Status PutCheckpoint(Database* db, const CheckpointRecord& record) {
  return db->Prepare("INSERT OR REPLACE INTO checkpoints(job, step, directory, checkpoint)"
                     " SELECT id, ?, ?, ? FROM jobs WHERE uid = ?")
      .Int(record.checkpoint.step())
      .Text(record.directory)
      .Blob(record.checkpoint.SerializeAsString())
      .Text(record.uid)
      .Run();
}

absl::Status PutAdapter(Database* db, const AdapterRecord& record) {
  return db->Prepare("INSERT OR REPLACE INTO adapters(name, source_job, directory, adapter) VALUES(?,?,?,?)")
      .Text(record.adapter.name())
      .Text(record.adapter.source_job())
      .Text(record.directory)
      .Blob(record.adapter.SerializeAsString())
      .Run();
}

absl::Status CommitAll(Database* db, WriteBatch* batch) {
  for (const JobRecord& job : batch->jobs) {
    if (absl::Status status = PutJob(db, job); !status.ok()) return status;
  }
  FT_FAILPOINT("store.batch.jobs");
  for (const std::string& uid : batch->forget_checkpoints) {
    auto forget = db->Prepare("DELETE FROM checkpoints WHERE job = (SELECT id FROM jobs WHERE uid = ?)");
    if (absl::Status status = forget.Text(uid).Run(); !status.ok()) return status;
    FT_FAILPOINT("store.batch.forgot_checkpoints");
  }
  for (EventRecord& event : batch->events) {
    if (absl::Status status = AppendEvent(db, &event); !status.ok()) return status;
    FT_FAILPOINT("store.batch.event");
  }
  for (const CheckpointRecord& checkpoint : batch->checkpoints) {
    if (absl::Status status = PutCheckpoint(db, checkpoint); !status.ok()) return status;
    FT_FAILPOINT("store.batch.checkpoint");
  }
  for (const AdapterRecord& adapter : batch->adapters) {
    if (absl::Status status = PutAdapter(db, adapter); !status.ok()) return status;
    FT_FAILPOINT("store.batch.adapter");
  }
  return batch->request ? PutRequestRow(db, *batch->request) : absl::OkStatus();
}

absl::Status MakeDirectories(const Layout& layout) {
  for (const std::string& dir : {layout.state_dir, layout.LogDir(), layout.JobsDir(), layout.DatasetsDir(),
                                 layout.UploadsDir(), layout.AdaptersDir()}) {
    std::error_code error;
    const bool made = std::filesystem::create_directories(dir, error);
    FT_FAILPOINT("store.open.directory");
    if (error) {
      return absl::FailedPreconditionError(
          absl::StrCat("state directory: cannot create ", dir, ": ", error.message()));
    }
    if (!made) continue;
    chmod(dir.c_str(), 0700);
    SyncDirectory(std::filesystem::path(dir).parent_path().string());
  }
  return absl::OkStatus();
}

}  // namespace

Store::Store(Options options) : options_(std::move(options)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(Options options) {
  if (absl::Status status = MakeDirectories(options.layout); !status.ok()) return status;
  std::unique_ptr<Store> store(new Store(std::move(options)));
  const std::string path = store->layout().Database();
  auto writer = Database::Open(path, true);
  if (!writer.ok()) return writer.status();
  chmod(path.c_str(), 0600);
  FT_FAILPOINT("store.open.writer");
  if (absl::Status status = Migrate(writer->get()); !status.ok()) return status;
  FT_FAILPOINT("store.open.migrated");
  auto reader = Database::Open(path, false);
  if (!reader.ok()) return reader.status();
  store->writer_ = *std::move(writer);
  store->reader_ = *std::move(reader);
  return store;
}

absl::Status Store::WriteLocked(const char* what, const std::function<absl::Status()>& body) {
  absl::Status status = writer_->Execute("BEGIN IMMEDIATE");
  if (!status.ok()) return status;
  FT_FAILPOINT(what, ".begun");
  status = body();
  if (status.ok()) {
    const absl::Time start = absl::Now();
    FT_FAILPOINT(what, ".written");
    status = writer_->Execute("COMMIT");
    FT_FAILPOINT(what, ".committed");
    if (options_.on_sync) options_.on_sync(absl::ToDoubleSeconds(absl::Now() - start));
  }
  // SQLite may have rolled back by itself (disk full, I/O error): the error of a second one is no news.
  if (!status.ok()) writer_->Execute("ROLLBACK").IgnoreError();
  return status;
}

absl::Status Store::Commit(WriteBatch* batch) {
  if (batch->empty()) return absl::OkStatus();
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.batch", [&] { return CommitAll(writer_.get(), batch); });
}

absl::Status Store::DeleteJob(const std::string& uid, const std::string& adapter,
                              const std::optional<RequestRecord>& request) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.delete_job", [&] {
    absl::Status status = writer_->Prepare("DELETE FROM jobs WHERE uid = ?").Text(uid).Run();
    if (status.ok()) status = writer_->Prepare("DELETE FROM adapters WHERE name = ?").Text(adapter).Run();
    return status.ok() && request ? PutRequestRow(writer_.get(), *request) : status;
  });
}

std::string Fingerprint(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), SHA256_DIGEST_LENGTH));
}

}  // namespace finetuned::store
