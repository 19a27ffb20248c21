#include "engine/format/gguf_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "engine/format/mapped_file.h"

namespace finetuned::format {
namespace {

constexpr int64_t kAlignment = 32;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(absl::string_view value, std::string* out) {
  Put<uint64_t>(value.size(), out);
  out->append(value.data(), value.size());
}

int64_t Aligned(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

uint32_t GgmlNumber(DType dtype) {
  uint32_t number = 0;
  while (DTypeOfGgml(number) != dtype) ++number;  // every DType but the two below has one
  return number;
}

absl::Status CheckTensor(const GgufWriter::Layout& tensor, std::unordered_set<std::string>* names) {
  if (tensor.name.empty() || tensor.shape.empty() || tensor.shape.size() > 4) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", tensor.name, "\" ", ShapeString(tensor.shape),
                                                   ": expected a name and 1 to 4 dimensions"));
  }
  if (tensor.dtype == DType::kU8 || tensor.dtype == DType::kBool) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, ": GGUF has no ", DTypeName(tensor.dtype)));
  }
  if (!names->insert(tensor.name).second) {
    return absl::InvalidArgumentError(absl::StrCat("duplicate tensor ", tensor.name));
  }
  return absl::OkStatus();
}

struct Header {
  std::string bytes;    // padded to the alignment
  int64_t file_bytes = 0;
};

absl::StatusOr<Header> BuildHeader(const GgufMetadataBuilder& metadata, const std::vector<GgufWriter::Layout>& tensors) {
  Header header;
  std::string& out = header.bytes;
  out = "GGUF";
  Put<uint32_t>(3, &out);
  Put<uint64_t>(tensors.size(), &out);
  Put<uint64_t>(metadata.count(), &out);
  out += metadata.bytes();
  int64_t offset = 0;
  std::unordered_set<std::string> names;
  for (const GgufWriter::Layout& tensor : tensors) {
    if (absl::Status s = CheckTensor(tensor, &names); !s.ok()) return s;
    const absl::StatusOr<int64_t> bytes = StorageBytes(tensor.dtype, tensor.shape);
    if (!bytes.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, ": ", bytes.status().message()));
    }
    PutString(tensor.name, &out);
    Put<uint32_t>(static_cast<uint32_t>(tensor.shape.size()), &out);
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) Put<uint64_t>(*size, &out);
    Put<uint32_t>(GgmlNumber(tensor.dtype), &out);
    Put<uint64_t>(offset, &out);
    offset += Aligned(*bytes);
  }
  out.resize(Aligned(static_cast<int64_t>(out.size())), '\0');
  header.file_bytes = static_cast<int64_t>(out.size()) + offset;
  return header;
}

}  // namespace

void GgufMetadataBuilder::Head(absl::string_view key, GgufType type) {
  PutString(key, &bytes_);
  Put(type, &bytes_);
  ++count_;
}

void GgufMetadataBuilder::ArrayHead(absl::string_view key, GgufType element, uint64_t count) {
  Head(key, GgufType::kArray);
  Put(element, &bytes_);
  Put(count, &bytes_);
}

void GgufMetadataBuilder::U32(absl::string_view key, uint32_t value) {
  Head(key, GgufType::kU32);
  Put(value, &bytes_);
}

void GgufMetadataBuilder::I32(absl::string_view key, int32_t value) {
  Head(key, GgufType::kI32);
  Put(value, &bytes_);
}

void GgufMetadataBuilder::F32(absl::string_view key, float value) {
  Head(key, GgufType::kF32);
  Put(value, &bytes_);
}

void GgufMetadataBuilder::Bool(absl::string_view key, bool value) {
  Head(key, GgufType::kBool);
  Put<uint8_t>(value ? 1 : 0, &bytes_);
}

void GgufMetadataBuilder::String(absl::string_view key, absl::string_view value) {
  Head(key, GgufType::kString);
  PutString(value, &bytes_);
}

void GgufMetadataBuilder::Strings(absl::string_view key, const std::vector<std::string>& values) {
  ArrayHead(key, GgufType::kString, values.size());
  for (const std::string& value : values) PutString(value, &bytes_);
}

void GgufMetadataBuilder::I32s(absl::string_view key, std::span<const int32_t> values) {
  ArrayHead(key, GgufType::kI32, values.size());
  for (int32_t value : values) Put(value, &bytes_);
}

void GgufMetadataBuilder::F32s(absl::string_view key, std::span<const float> values) {
  ArrayHead(key, GgufType::kF32, values.size());
  for (float value : values) Put(value, &bytes_);
}

void GgufMetadataBuilder::Copy(absl::string_view key, const GgufValue& value) {
  if (value.type == GgufType::kArray) {
    ArrayHead(key, value.element, value.count);
  } else {
    Head(key, value.type);
    if (value.type == GgufType::kString) Put<uint64_t>(value.bytes.size(), &bytes_);
  }
  bytes_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

absl::StatusOr<int64_t> GgufWriter::FileBytes(const GgufMetadataBuilder& metadata,
                                              const std::vector<Layout>& tensors) {
  const absl::StatusOr<Header> header = BuildHeader(metadata, tensors);
  if (!header.ok()) return header.status();
  return header->file_bytes;
}

absl::StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::Create(const std::string& path,
                                                               const GgufMetadataBuilder& metadata,
                                                               std::vector<Layout> tensors) {
  const absl::StatusOr<Header> header = BuildHeader(metadata, tensors);
  if (!header.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(DisplayName(path), ": ", header.status().message()));
  }
  auto writer = std::unique_ptr<GgufWriter>(new GgufWriter(path, std::move(tensors)));
  writer->fd_ = open((path + ".tmp").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat(DisplayName(path), ": cannot be created"));
  if (absl::Status s = writer->Write(header->bytes); !s.ok()) return s;
  return writer;
}

GgufWriter::~GgufWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink((path_ + ".tmp").c_str());
}

absl::Status GgufWriter::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      return absl::ErrnoToStatus(errno,
                                 absl::StrCat(DisplayName(path_), ": write of ", bytes.size(), " bytes failed"));
    }
    position_ += written;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status GgufWriter::Pad() { return Write(std::string(Aligned(position_) - position_, '\0')); }

absl::Status GgufWriter::Append(const std::string& tensor, std::span<const uint8_t> bytes) {
  if (next_ == tensors_.size() || tensors_[next_].name != tensor) {
    return absl::InvalidArgumentError(
        absl::StrCat(DisplayName(path_), ": expected tensor ",
                     next_ == tensors_.size() ? "none" : tensors_[next_].name, ", found ", tensor));
  }
  const int64_t expected = *StorageBytes(tensors_[next_].dtype, tensors_[next_].shape);
  if (static_cast<int64_t>(bytes.size()) != expected) {
    return absl::InvalidArgumentError(absl::StrCat(DisplayName(path_), ": tensor ", tensor, ": expected ", expected,
                                                   " bytes, found ", bytes.size()));
  }
  ++next_;
  const absl::Status s = Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return s.ok() ? Pad() : s;
}

absl::Status GgufWriter::Finish() {
  if (next_ != tensors_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(DisplayName(path_), ": tensor ", tensors_[next_].name, " was not written"));
  }
  const int closed = close(fd_);
  fd_ = -1;
  if (closed != 0 || rename((path_ + ".tmp").c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink((path_ + ".tmp").c_str());
    return absl::ErrnoToStatus(error, absl::StrCat(DisplayName(path_), ": cannot be finished"));
  }
  return absl::OkStatus();
}

}  // namespace finetuned::format
