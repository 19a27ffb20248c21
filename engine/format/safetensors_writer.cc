#include "engine/format/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/format/mapped_file.h"

namespace finetuned::format {
namespace {

using nlohmann::ordered_json;

// Place in the file, as in the reference: wider elements first, so that each tensor is aligned.
int SortRank(DType dtype) {
  constexpr DType kOrder[] = {DType::kI64, DType::kF64, DType::kF32, DType::kI32, DType::kBF16,
                              DType::kF16, DType::kI16, DType::kI8,  DType::kU8,  DType::kBool};
  return static_cast<int>(std::find(std::begin(kOrder), std::end(kOrder), dtype) - kOrder);
}

bool IsStorable(DType dtype) { return BlockOf(dtype).elements == 1; }

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name == "__metadata__" ||
      !std::all_of(name.begin(), name.end(), absl::ascii_isprint)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", absl::CHexEscape(name), "\" cannot name a tensor: expected printable ASCII"));
  }
  return absl::OkStatus();
}

struct HeaderAndSlots {
  std::string header;                               // with size and padding
  std::vector<std::pair<int64_t, int64_t>> ranges;  // of each tensor, from the start of the file
};

absl::StatusOr<HeaderAndSlots> BuildHeader(const std::vector<SafetensorsWriter::Layout>& sorted,
                                           const std::map<std::string, std::string>& metadata) {
  ordered_json document = ordered_json::object();
  if (!metadata.empty()) document["__metadata__"] = metadata;
  HeaderAndSlots result;
  int64_t offset = 0;
  for (const SafetensorsWriter::Layout& tensor : sorted) {
    if (absl::Status s = CheckName(tensor.name); !s.ok()) return s;
    if (document.contains(tensor.name)) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate tensor ", tensor.name));
    }
    if (!IsStorable(tensor.dtype)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, ": safetensors has no ", DTypeName(tensor.dtype)));
    }
    const absl::StatusOr<int64_t> bytes = StorageBytes(tensor.dtype, tensor.shape);
    int64_t end = 0;
    if (!bytes.ok() || __builtin_add_overflow(offset, *bytes, &end)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", tensor.name, ": ", bytes.ok() ? "file too large" : bytes.status().message()));
    }
    document[tensor.name] = {{"dtype", DTypeName(tensor.dtype)},
                             {"shape", tensor.shape},
                             {"data_offsets", {offset, end}}};
    result.ranges.emplace_back(offset, end);
    offset = end;
  }
  std::string text = document.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  result.header.assign(reinterpret_cast<const char*>(&size), sizeof(size));
  result.header += text;
  for (auto& [begin, end] : result.ranges) {
    begin += static_cast<int64_t>(result.header.size());
    end += static_cast<int64_t>(result.header.size());
  }
  return result;
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::absolute(path).parent_path().string();
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fsync(fd) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return absl::ErrnoToStatus(error, absl::StrCat(DisplayName(folder), ": cannot be synced"));
  }
  close(fd);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<Layout> tensors, const SafetensorsOptions& options) {
  std::sort(tensors.begin(), tensors.end(), [](const Layout& a, const Layout& b) {
    return std::pair(SortRank(a.dtype), std::string_view(a.name)) <
           std::pair(SortRank(b.dtype), std::string_view(b.name));
  });
  absl::StatusOr<HeaderAndSlots> built = BuildHeader(tensors, options.metadata);
  if (!built.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(DisplayName(path), ": ", built.status().message()));
  }
  auto writer = std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(path, options.sync));
  writer->fd_ = open(writer->TempPath().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(DisplayName(path), ": cannot be created"));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    writer->slots_[tensors[i].name] = {built->ranges[i].first, built->ranges[i].second};
  }
  const std::string& header = built->header;
  absl::Status status =
      writer->WriteAt(0, {reinterpret_cast<const uint8_t*>(header.data()), header.size()});
  if (!status.ok()) return status;
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(TempPath().c_str());
}

absl::Status SafetensorsWriter::WriteAt(int64_t position, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), position);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat(DisplayName(path_), ": write of ", bytes.size(), " bytes failed"));
    }
    position += written;
    bytes = bytes.subspan(written);
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(const std::string& tensor, std::span<const uint8_t> bytes) {
  const auto it = slots_.find(tensor);
  if (it == slots_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(DisplayName(path_), ": tensor ", tensor, " was not announced"));
  }
  Slot& slot = it->second;
  if (static_cast<int64_t>(bytes.size()) > slot.end - slot.position) {
    return absl::InvalidArgumentError(absl::StrCat(DisplayName(path_), ": tensor ", tensor,
                                                   ": expected at most ", slot.end - slot.position,
                                                   " more bytes, found ", bytes.size()));
  }
  if (absl::Status s = WriteAt(slot.position, bytes); !s.ok()) return s;
  slot.position += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  for (const auto& [name, slot] : slots_) {
    if (slot.position != slot.end) {
      return absl::FailedPreconditionError(absl::StrCat(DisplayName(path_), ": tensor ", name,
                                                        " lacks its last ",
                                                        slot.end - slot.position, " bytes"));
    }
  }
  if (sync_ && fsync(fd_) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(DisplayName(path_), ": cannot be synced"));
  }
  const int closed = close(std::exchange(fd_, -1));
  if (closed != 0 || rename(TempPath().c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(TempPath().c_str());
    return absl::ErrnoToStatus(error, absl::StrCat(DisplayName(path_), ": cannot be completed"));
  }
  return sync_ ? SyncFolderOf(path_) : absl::OkStatus();
}

}  // namespace finetuned::format
