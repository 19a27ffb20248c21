#include "server/api/download_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/spec/crc32c.h"
#include "server/api/names.h"

namespace finetuned::api {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

}  // namespace

DownloadStream::DownloadStream(const Front& front, grpc::CallbackServerContext* context,
                               const v1::DownloadAdapterRequest& request)
    : front_(front), request_(request) {
  const auto caller = front.authenticator->Identify(*context);
  if (!caller.ok()) {
    Finish(ToGrpc(caller.status()));
    return;
  }
  front_.shared->quick.Continue([this, caller = *caller] {
    const absl::Status opened = Guarded([&] {
      const absl::Status allowed = front_.shared->access.Check(caller, request_);
      return allowed.ok() ? Open() : allowed;
    });
    if (!opened.ok()) return Finish(ToGrpc(opened));
    SendChunk();
  });
}

DownloadStream::~DownloadStream() {
  if (fd_ >= 0) close(fd_);
}

absl::Status DownloadStream::Open() {
  const auto id = ParseName("adapters", request_.name());
  if (!id.ok()) return id.status();
  if (request_.format() > v1::DownloadAdapterRequest::PEFT_SAFETENSORS) {
    return NotAvailable("format", "merged models and GGUF arrive with export (not in this version)");
  }
  const auto record = front_.shared->daemon.store->GetAdapter(request_.name());
  if (absl::IsNotFound(record.status())) return NotFound("Adapter", request_.name());
  if (!record.ok()) return record.status();
  // Only names the daemon itself wrote down are opened.
  const auto& files = record->adapter.files();
  const auto found = std::find_if(files.begin(), files.end(),
                                  [this](const v1::AdapterFile& f) { return f.file() == request_.file(); });
  if (found == files.end()) {
    return InvalidField("file", absl::StrCat("must be one of: ", absl::StrJoin(files, ", ", [](std::string* out, const auto& f) {
                                               absl::StrAppend(out, f.file());
                                             })));
  }
  file_ = *found;
  if (request_.read_offset() < 0 || request_.read_offset() > file_.size_bytes()) {
    return absl::OutOfRangeError(absl::StrCat("read_offset is ", request_.read_offset(), "; ", file_.file(), " has ",
                                              file_.size_bytes(), " bytes"));
  }
  offset_ = request_.read_offset();
  fd_ = open(absl::StrCat(record->directory, "/", file_.file()).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  struct stat info;
  if (fd_ < 0 || fstat(fd_, &info) != 0 || info.st_size != file_.size_bytes()) {
    return ChecksumMismatch("Adapter", request_.name(),
                            absl::StrCat(file_.file(), " is missing on the daemon's disk or has another size"));
  }
  return absl::OkStatus();
}

void DownloadStream::SendChunk() {
  std::string* data = chunk_.mutable_data();
  data->resize(static_cast<size_t>(std::min(kChunkBytes, file_.size_bytes() - offset_)));
  for (size_t done = 0; done < data->size();) {
    const ssize_t n = pread(fd_, data->data() + done, data->size() - done, offset_ + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Finish(ToGrpc(absl::UnavailableError(absl::StrCat("cannot read ", file_.file()))));
    done += static_cast<size_t>(n);
  }
  chunk_.set_file(file_.file());
  chunk_.set_offset(offset_);
  chunk_.set_crc32c(spec::Crc32c(*data));
  chunk_.set_total_size(file_.size_bytes());
  offset_ += static_cast<int64_t>(data->size());
  if (offset_ < file_.size_bytes()) return StartWrite(&chunk_);
  chunk_.set_sha256(file_.sha256());
  StartWriteAndFinish(&chunk_, grpc::WriteOptions(), grpc::Status::OK);
}

void DownloadStream::OnWriteDone(bool ok) {
  if (!ok) return Finish(grpc::Status::CANCELLED);
  front_.shared->quick.Continue([this] { SendChunk(); });
}

}  // namespace finetuned::api
