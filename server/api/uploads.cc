#include "server/api/uploads.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "engine/data/dataset.h"
#include "engine/job/failpoint.h"
#include "proto/spec/crc32c.h"
#include "server/api/dataset_proto.h"
#include "server/api/disk.h"
#include "server/api/error.h"
#include "server/api/names.h"
#include "server/jobs/quota.h"

namespace finetuned::api {
namespace {

constexpr int64_t kSyncBytes = 16 << 20;          // a crash of the daemon loses at most this much

absl::Status OffsetMismatch(int64_t sent, int64_t committed) {
  return WrongState("write_offset", "UPLOAD_OFFSET_MISMATCH",
                    absl::StrCat("write_offset is ", sent, " but ", committed,
                                 " bytes are here; go on at GetUploadStatus.committed_size"),
                    {{"committed_size", absl::StrCat(committed)}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Upload>> Uploads::Begin(const v1::UploadDatasetRequest& first,
                                                       const std::string& owner) {
  if (!IsValidId(first.dataset_id())) {
    return InvalidField("dataset_id", "must match [a-z][a-z0-9-]{2,62}");
  }
  const absl::StatusOr<data::Method> method = MethodFromName(first.method());
  if (!method.ok()) return method.status();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!active_.insert(first.dataset_id()).second) {
      return Conflict("UPLOAD_IN_PROGRESS",
                      absl::StrCat("another stream is uploading datasets/", first.dataset_id()));
    }
  }
  absl::StatusOr<std::unique_ptr<Upload>> upload = Open(first, owner);
  if (!upload.ok()) Release(first.dataset_id());
  return upload;
}

absl::StatusOr<std::unique_ptr<Upload>> Uploads::Open(const v1::UploadDatasetRequest& first,
                                                      const std::string& owner) {
  const std::string path = store_->layout().UploadFile(first.dataset_id());
  absl::StatusOr<store::UploadRecord> record = store_->GetUpload(first.dataset_id());
  if (!record.ok() && !absl::IsNotFound(record.status())) return record.status();
  const std::string method = first.method().empty() ? "sft" : first.method();
  const bool fresh = !record.ok() || first.write_offset() == 0;
  if (fresh) record = store::UploadRecord{first.dataset_id(), method, owner, 0, absl::Now()};
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return DiskError("open");
  absl::Cleanup close_fd = [fd] { close(fd); };
  struct stat info;
  if (fstat(fd, &info) != 0) return DiskError("stat");
  const int64_t committed = std::min<int64_t>(record->committed, info.st_size);
  // A stream may start again anywhere up to what is here; what is after is dropped.
  if (first.write_offset() < 0 || first.write_offset() > committed) {
    return OffsetMismatch(first.write_offset(), committed);
  }
  FT_FAILPOINT("upload.opened");
  if (ftruncate(fd, first.write_offset()) != 0) return DiskError("truncate");
  FT_FAILPOINT("upload.truncated");
  record->committed = first.write_offset();
  record->method = method;
  record->update_time = absl::Now();
  const absl::Status kept = store_->PutUpload(*record);
  if (!kept.ok()) return kept;
  FT_FAILPOINT("upload.begun");
  std::move(close_fd).Cancel();
  return std::unique_ptr<Upload>(new Upload(this, *std::move(record), fd));
}

void Uploads::DropFile(const std::string& sha256) {
  const std::lock_guard<std::mutex> files(files_mutex_);
  const auto others = store_->CountDatasets(sha256);
  if (others.ok() && *others == 0) unlink(store_->layout().DatasetFile(sha256).c_str());
}

void Uploads::Release(const std::string& dataset_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  active_.erase(dataset_id);
}

absl::StatusOr<v1::UploadStatus> Uploads::Status(const std::string& dataset_id) const {
  if (!IsValidId(dataset_id)) return InvalidField("dataset_id", "must match [a-z][a-z0-9-]{2,62}");
  v1::UploadStatus out;
  const auto upload = store_->GetUpload(dataset_id);
  if (upload.ok()) {
    // Killed after the rename and before the dataset's row, an upload has no file any more and starts over.
    struct stat info = {};
    const bool there = stat(store_->layout().UploadFile(dataset_id).c_str(), &info) == 0;
    out.set_committed_size(there ? std::min<int64_t>(upload->committed, info.st_size) : 0);
    return out;
  }
  const std::string name = absl::StrCat("datasets/", dataset_id);
  const auto dataset = store_->GetDataset(name);
  if (absl::IsNotFound(dataset.status())) return NotFound("Dataset", name);
  if (!dataset.ok()) return dataset.status();
  out.set_committed_size(dataset->dataset.size_bytes());
  out.set_complete(true);
  return out;
}

Upload::~Upload() {
  if (!done_) (void)Commit();  // best effort: the client is gone, and GetUploadStatus tells what counts
  if (fd_ >= 0) close(fd_);
  uploads_->Release(record_.dataset_id);
}

absl::Status Upload::Commit() {
  FT_FAILPOINT("upload.written");
  if (fdatasync(fd_) != 0) return DiskError("sync");
  FT_FAILPOINT("upload.synced");
  record_.committed = written_;
  record_.update_time = absl::Now();
  return uploads_->store_->PutUpload(record_);
}

absl::Status Upload::CheckChunk(const v1::UploadDatasetRequest& chunk) const {
  const std::string name = absl::StrCat("datasets/", record_.dataset_id);
  const auto size = static_cast<int64_t>(chunk.data().size());
  if (!first_ && !chunk.dataset_id().empty() && chunk.dataset_id() != record_.dataset_id) {
    return InvalidField("dataset_id", "changes in the middle of a stream");
  }
  if (size > uploads_->limits_.max_chunk_bytes) {
    return InvalidField("data", absl::StrCat("has ", size, " bytes; at most ", uploads_->limits_.max_chunk_bytes,
                                             " go into one message"));
  }
  if (chunk.write_offset() != written_) return OffsetMismatch(chunk.write_offset(), written_);
  if (spec::Crc32c(chunk.data()) != chunk.crc32c()) {
    return ChecksumMismatch("Dataset", name,
                            absl::StrCat("the chunk at offset ", written_, " arrived damaged: its crc32c differs"));
  }
  if (written_ + size > uploads_->limits_.max_dataset_bytes) {
    return QuotaExceeded(name, "DATASET_TOO_LARGE",
                         absl::StrCat("a dataset may have ", uploads_->limits_.max_dataset_bytes, " bytes"));
  }
  if (first_ || written_ % kSyncBytes + size >= kSyncBytes) {
    if (absl::Status status = CheckQuota(size); !status.ok()) return status;
    return CheckFreeDisk(uploads_->store_->layout().UploadsDir(), size, uploads_->limits_.min_free_disk_bytes);
  }
  return absl::OkStatus();
}

// Looked at now and then: a principal may exceed its storage by kSyncBytes.
absl::Status Upload::CheckQuota(int64_t size) const {
  const config::QuotasConfig& quotas = uploads_->quotas_;
  if (quotas.max_storage_bytes == 0 || jobs::IsExempt(quotas, record_.owner)) return absl::OkStatus();
  const auto owned = uploads_->store_->OwnedBytes(record_.owner);
  if (!owned.ok()) return owned.status();
  return jobs::CheckStorage(quotas, record_.owner, *owned - record_.committed + written_ + size);
}

absl::Status Upload::Append(const v1::UploadDatasetRequest& chunk) {
  const absl::Status good = CheckChunk(chunk);
  if (!good.ok()) return good;
  first_ = false;
  FT_FAILPOINT("upload.chunk");
  const std::string& data = chunk.data();
  for (size_t done = 0; done < data.size();) {
    const ssize_t n = pwrite(fd_, data.data() + done, data.size() - done, written_);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return DiskError("write");
    done += static_cast<size_t>(n);
    written_ += n;
  }
  return written_ - record_.committed >= kSyncBytes ? Commit() : absl::OkStatus();
}

absl::StatusOr<v1::Dataset> Upload::Finish() {
  const absl::Status synced = Commit();
  if (!synced.ok()) return synced;
  FT_FAILPOINT("upload.complete");
  const std::string part = uploads_->store_->layout().UploadFile(record_.dataset_id);
  const auto method = MethodFromName(record_.method);
  if (!method.ok()) return method.status();
  const auto report = data::ValidateFile(part, *method);
  if (!report.ok()) return report.status();
  return Keep(ToDataset(absl::StrCat("datasets/", record_.dataset_id), record_.method, *report));
}

absl::StatusOr<v1::Dataset> Upload::Keep(v1::Dataset dataset) {
  FT_FAILPOINT("upload.validated");
  store::Store& store = *uploads_->store_;
  const std::string part = store.layout().UploadFile(record_.dataset_id);
  // Nobody drops the file of these bytes before its row is there.
  const std::lock_guard<std::mutex> files(uploads_->files_mutex_);
  const auto existing = store.GetDataset(dataset.name());
  const bool same = existing.ok() && existing->dataset.state() == v1::Dataset::ACTIVE;
  if (same && (existing->dataset.sha256() != dataset.sha256() || existing->dataset.method() != dataset.method())) {
    return AlreadyExists("Dataset", dataset.name(),
                         absl::StrCat(dataset.name(), " exists with other bytes or for another method; choose another "
                                      "dataset_id, or delete it first"));
  }
  if (same) {
    dataset = existing->dataset;
  } else if (dataset.state() == v1::Dataset::ACTIVE) {
    if (rename(part.c_str(), store.layout().DatasetFile(dataset.sha256()).c_str()) != 0) return DiskError("rename");
    FT_FAILPOINT("upload.renamed");
    const absl::Status folder = SyncFolder(store.layout().DatasetsDir());
    if (!folder.ok()) return folder;
    FT_FAILPOINT("upload.folder_synced");
  }
  if (!same) {
    const absl::Status kept = store.PutDataset({dataset, record_.owner});
    if (!kept.ok()) return kept;
  }
  done_ = true;
  FT_FAILPOINT("upload.kept");
  unlink(part.c_str());  // of an invalid file only the findings are kept
  FT_FAILPOINT("upload.part_removed");
  const absl::Status forgotten = store.DeleteUpload(record_.dataset_id);
  if (!forgotten.ok()) return forgotten;
  return dataset;
}

}  // namespace finetuned::api
