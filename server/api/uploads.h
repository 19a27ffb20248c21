#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "finetuned/v1/datasets.pb.h"
#include "server/config/config.h"
#include "server/store/store.h"

namespace finetuned::api {

class Uploads;

// One stream that writes one dataset file. Not thread safe: its calls come one after another. What was
// written when it is destroyed is synced and can be continued.
class Upload {
 public:
  ~Upload();
  // Checks offset, size and checksum, then writes.
  absl::Status Append(const v1::UploadDatasetRequest& chunk);
  // Validates the whole file and keeps the dataset: ACTIVE, or INVALID with its errors. Seconds.
  absl::StatusOr<v1::Dataset> Finish();
  int64_t written() const { return written_; }

 private:
  friend class Uploads;
  Upload(Uploads* uploads, store::UploadRecord record, int fd)
      : uploads_(uploads), record_(std::move(record)), fd_(fd), written_(record_.committed) {}
  absl::Status Commit();
  absl::Status CheckChunk(const v1::UploadDatasetRequest& chunk) const;
  absl::StatusOr<v1::Dataset> Keep(v1::Dataset dataset);
  absl::Status CheckQuota(int64_t size) const;

  Uploads* const uploads_;
  store::UploadRecord record_;
  int fd_;
  int64_t written_;
  bool first_ = true;
  bool done_ = false;  // the part file is gone
};

// Dataset files on their way in. Thread safe.
class Uploads {
 public:
  Uploads(store::Store* store, const config::LimitsConfig& limits, const config::QuotasConfig& quotas = {})
      : store_(store), limits_(limits), quotas_(quotas) {}

  // `first`: the stream's first message; its bytes are not written yet. ABORTED: another stream writes
  // the same dataset.
  absl::StatusOr<std::unique_ptr<Upload>> Begin(const v1::UploadDatasetRequest& first,
                                                const std::string& owner);
  absl::StatusOr<v1::UploadStatus> Status(const std::string& dataset_id) const;
  // Removes the file of these bytes unless a dataset is made of them.
  void DropFile(const std::string& sha256);

 private:
  friend class Upload;
  absl::StatusOr<std::unique_ptr<Upload>> Open(const v1::UploadDatasetRequest& first, const std::string& owner);
  void Release(const std::string& dataset_id);

  store::Store* const store_;
  const config::LimitsConfig limits_;
  const config::QuotasConfig quotas_;
  std::mutex files_mutex_;        // held while a dataset file comes or goes
  std::mutex mutex_;
  std::set<std::string> active_;  // dataset ids with a stream
};

}  // namespace finetuned::api
