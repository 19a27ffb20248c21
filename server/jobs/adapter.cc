#include "server/jobs/adapter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/job/failpoint.h"
#include "server/jobs/record.h"
#include "server/store/sync.h"

namespace finetuned::jobs {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> Sha256OfFile(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path.filename().string()));
  EVP_MD_CTX* hash = EVP_MD_CTX_new();
  EVP_DigestInit_ex(hash, EVP_sha256(), nullptr);
  std::vector<char> buffer(1 << 20);
  ssize_t n;
  while ((n = read(fd, buffer.data(), buffer.size())) > 0) {
    EVP_DigestUpdate(hash, buffer.data(), static_cast<size_t>(n));
  }
  close(fd);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(hash, digest, &size);
  EVP_MD_CTX_free(hash);
  if (n < 0) return absl::DataLossError(absl::StrCat("cannot read ", path.filename().string()));
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), size));
}

absl::Status Move(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (!fs::exists(from, error)) {
    if (fs::is_directory(to, error)) return absl::OkStatus();  // moved before a crash
    return absl::InternalError("the worker said it was done, but there is no adapter");
  }
  fs::remove_all(to, error);
  FT_FAILPOINT("adapter.old_removed");
  fs::rename(from, to, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot keep the adapter: ", error.message()));
  FT_FAILPOINT("adapter.moved");
  store::SyncDirectory(to.parent_path());
  FT_FAILPOINT("adapter.target_synced");
  store::SyncDirectory(from.parent_path());
  FT_FAILPOINT("adapter.source_synced");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<store::AdapterRecord> TakeAdapter(const store::Layout& layout, const v1::Job& job,
                                                 const internal::v1::WorkerFinished& finished,
                                                 absl::Time now) {
  const fs::path relative(finished.adapter_dir());
  if (relative.empty() || relative.is_absolute() || absl::StrContains(finished.adapter_dir(), "..")) {
    return absl::InternalError(absl::StrCat("the worker named a wrong adapter folder: \"",
                                            finished.adapter_dir(), "\""));
  }
  store::AdapterRecord record;
  record.directory = layout.AdapterDir(job.uid());
  if (absl::Status status = Move(fs::path(layout.JobDir(job.uid())) / relative, record.directory);
      !status.ok()) {
    return status;
  }
  v1::Adapter& adapter = record.adapter;
  adapter.set_name(absl::StrCat("adapters/", job.name().substr(job.name().find('/') + 1)));
  adapter.set_base_model(job.spec().base_model());
  adapter.set_source_job(job.name());
  *adapter.mutable_labels() = job.labels();
  adapter.mutable_metrics()->insert(finished.final_metrics().begin(), finished.final_metrics().end());
  *adapter.mutable_create_time() = ToProto(now);
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(record.directory, error)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  int64_t total = 0;
  for (const fs::path& path : paths) {
    const auto sha256 = Sha256OfFile(path);
    if (!sha256.ok()) return sha256.status();
    FT_FAILPOINT("adapter.hashed");
    v1::AdapterFile* file = adapter.add_files();
    file->set_file(path.filename().string());
    file->set_size_bytes(static_cast<int64_t>(fs::file_size(path, error)));
    file->set_sha256(*sha256);
    total += file->size_bytes();
    if (file->file() == "adapter_model.safetensors") adapter.set_sha256(*sha256);
  }
  adapter.set_size_bytes(total);
  return record;
}

}  // namespace finetuned::jobs
