// Adapters, datasets, uploads, remembered requests and small values.
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/store/rows.h"

namespace finetuned::store {
namespace {

constexpr absl::Duration kRequestLife = absl::Hours(24);

absl::Status ReadAdapter(const Statement& row, AdapterRecord* record) {
  record->directory = row.GetBytes(1);
  return row.GetMessage(0, "adapters", &record->adapter);
}

absl::Status ReadDataset(const Statement& row, DatasetRecord* record) {
  record->owner = row.GetBytes(1);
  return row.GetMessage(0, "datasets", &record->dataset);
}

// A deleted row, or NOT_FOUND.
absl::Status RunDelete(Database* db, const char* sql, const std::string& key,
                       const std::optional<RequestRecord>& request = std::nullopt) {
  auto statement = db->Prepare(sql);
  if (absl::Status status = statement.Text(key).Run(); !status.ok()) return status;
  if (db->changes() == 0) return absl::NotFoundError(key + " does not exist");
  return request ? PutRequestRow(db, *request) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<AdapterRecord> Store::GetAdapter(const std::string& name) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT adapter, directory FROM adapters WHERE name = ?");
  query.Text(name);
  return One<AdapterRecord>(&query, name, ReadAdapter);
}

absl::StatusOr<std::vector<AdapterRecord>> Store::ListAdapters(const std::string& after, int limit) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT adapter, directory FROM adapters WHERE name > ? ORDER BY name LIMIT ?");
  query.Text(after).Int(limit);
  return Collect<AdapterRecord>(&query, ReadAdapter);
}

absl::Status Store::DeleteAdapter(const std::string& name, const std::optional<RequestRecord>& request) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.delete_adapter", [&] {
    return RunDelete(writer_.get(), "DELETE FROM adapters WHERE name = ?", name, request);
  });
}

absl::Status Store::PutDataset(const DatasetRecord& record) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.put_dataset", [&] {
    return writer_->Prepare("INSERT OR REPLACE INTO datasets(name, sha256, owner, dataset) VALUES(?,?,?,?)")
        .Text(record.dataset.name())
        .Text(record.dataset.sha256())
        .Text(record.owner)
        .Blob(record.dataset.SerializeAsString())
        .Run();
  });
}

absl::StatusOr<DatasetRecord> Store::GetDataset(const std::string& name) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT dataset, owner FROM datasets WHERE name = ?");
  query.Text(name);
  return One<DatasetRecord>(&query, name, ReadDataset);
}

absl::StatusOr<std::vector<DatasetRecord>> Store::ListDatasets(const std::string& after, int limit) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT dataset, owner FROM datasets WHERE name > ? ORDER BY name LIMIT ?");
  query.Text(after).Int(limit);
  return Collect<DatasetRecord>(&query, ReadDataset);
}

absl::Status Store::DeleteDataset(const std::string& name, const std::optional<RequestRecord>& request) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.delete_dataset", [&] {
    return RunDelete(writer_.get(), "DELETE FROM datasets WHERE name = ?", name, request);
  });
}

absl::StatusOr<int64_t> Store::CountDatasets(const std::string& sha256) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT count(*) FROM datasets WHERE sha256 = ?");
  query.Text(sha256);
  return One<int64_t>(&query, "count", [](const Statement& row, int64_t* count) {
    *count = row.GetInt(0);
    return absl::OkStatus();
  });
}

absl::StatusOr<int64_t> Store::OwnedBytes(const std::string& owner) const {
  std::lock_guard lock(read_mutex_);
  int64_t bytes = 0;
  auto datasets = reader_->Prepare("SELECT dataset, owner FROM datasets WHERE owner = ?");
  datasets.Text(owner);
  const auto owned = Collect<DatasetRecord>(&datasets, ReadDataset);
  if (!owned.ok()) return owned.status();
  for (const DatasetRecord& record : *owned) bytes += record.dataset.size_bytes();
  auto uploads = reader_->Prepare("SELECT coalesce(sum(committed), 0) FROM uploads WHERE owner = ?");
  uploads.Text(owner);
  const auto committed = One<int64_t>(&uploads, "sum", [](const Statement& row, int64_t* sum) {
    *sum = row.GetInt(0);
    return absl::OkStatus();
  });
  if (!committed.ok()) return committed.status();
  bytes += *committed;
  // Whose a job is stands in its message alone.
  const auto add = [&](const char* sql, auto message) -> absl::Status {
    auto query = reader_->Prepare(sql);
    return Collect<v1::Job>(&query, [&](const Statement& row, v1::Job* job) {
             if (absl::Status status = row.GetMessage(0, "jobs", job); !status.ok()) return status;
             if (job->owner() != owner) return absl::OkStatus();
             if (absl::Status status = row.GetMessage(1, "files", &message); !status.ok()) return status;
             bytes += message.size_bytes();
             return absl::OkStatus();
           })
        .status();
  };
  absl::Status status = add("SELECT j.job, c.checkpoint FROM checkpoints c JOIN jobs j ON j.id = c.job", v1::Checkpoint());
  if (status.ok()) {
    status = add("SELECT j.job, a.adapter FROM adapters a JOIN jobs j ON j.name = a.source_job", v1::Adapter());
  }
  if (!status.ok()) return status;
  return bytes;
}

absl::Status Store::PutUpload(const UploadRecord& upload) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.put_upload", [&] {
    return writer_
        ->Prepare("INSERT OR REPLACE INTO uploads(dataset_id, method, owner, committed, update_time)"
                  " VALUES(?,?,?,?,?)")
        .Text(upload.dataset_id)
        .Text(upload.method)
        .Text(upload.owner)
        .Int(upload.committed)
        .Int(absl::ToUnixNanos(upload.update_time))
        .Run();
  });
}

absl::StatusOr<UploadRecord> Store::GetUpload(const std::string& dataset_id) const {
  std::lock_guard lock(read_mutex_);
  auto query =
      reader_->Prepare("SELECT method, owner, committed, update_time FROM uploads WHERE dataset_id = ?");
  query.Text(dataset_id);
  return One<UploadRecord>(&query, "upload of " + dataset_id, [&](const Statement& row, UploadRecord* record) {
    record->dataset_id = dataset_id;
    record->method = row.GetBytes(0);
    record->owner = row.GetBytes(1);
    record->committed = row.GetInt(2);
    record->update_time = absl::FromUnixNanos(row.GetInt(3));
    return absl::OkStatus();
  });
}

absl::Status Store::DeleteUpload(const std::string& dataset_id) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.delete_upload", [&] { return RunDelete(writer_.get(), "DELETE FROM uploads WHERE dataset_id = ?", dataset_id); });
}

absl::Status PutRequestRow(Database* db, const RequestRecord& request) {
  return db->Prepare("INSERT OR REPLACE INTO requests(principal, request_id, method, fingerprint, response,"
                     " time) VALUES(?,?,?,?,?,?)")
      .Text(request.principal)
      .Text(request.request_id)
      .Text(request.method)
      .Text(request.fingerprint)
      .Blob(request.response)
      .Int(absl::ToUnixNanos(request.time))
      .Run();
}

absl::StatusOr<RequestRecord> Store::FindRequest(const std::string& principal, const std::string& request_id,
                                                 const std::string& method,
                                                 const std::string& fingerprint) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare(
      "SELECT method, fingerprint, response, time FROM requests WHERE principal = ? AND request_id = ?"
      " AND time > ?");
  query.Text(principal).Text(request_id).Int(absl::ToUnixNanos(absl::Now() - kRequestLife));
  auto found = One<RequestRecord>(
      &query, "request " + request_id, [&](const Statement& row, RequestRecord* record) {
        *record = {principal,       request_id,      row.GetBytes(0),
                   row.GetBytes(1), row.GetBytes(2), absl::FromUnixNanos(row.GetInt(3))};
        return absl::OkStatus();
      });
  if (found.ok() && (found->method != method || found->fingerprint != fingerprint)) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id ", request_id, " was used for another ", found->method,
                     " call; a new call needs a new id"));
  }
  return found;
}

absl::Status Store::PutRequest(const RequestRecord& request) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.put_request", [&] { return PutRequestRow(writer_.get(), request); });
}

absl::Status Store::ForgetRequests(absl::Time before) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.forget_requests", [&] {
    return writer_->Prepare("DELETE FROM requests WHERE time < ?").Int(absl::ToUnixNanos(before)).Run();
  });
}

absl::Status Store::PutValue(const std::string& key, const std::string& value) {
  std::lock_guard lock(write_mutex_);
  return WriteLocked("store.put_value", [&] {
    return writer_->Prepare("INSERT OR REPLACE INTO daemon_values(key, value) VALUES(?,?)")
        .Text(key)
        .Blob(value)
        .Run();
  });
}

absl::StatusOr<std::string> Store::GetValue(const std::string& key) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT value FROM daemon_values WHERE key = ?");
  query.Text(key);
  return One<std::string>(&query, key, [](const Statement& row, std::string* value) {
    *value = row.GetBytes(0);
    return absl::OkStatus();
  });
}

}  // namespace finetuned::store
