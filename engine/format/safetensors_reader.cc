#include "engine/format/safetensors_reader.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/format/strict_json.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kPrefixBytes = 8;
constexpr DType kStoredTypes[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16,
                                  DType::kI64, DType::kI32, DType::kI16, DType::kI8,
                                  DType::kU8,  DType::kBool};

struct Entry {
  TensorInfo info;
  int64_t begin = 0, end = 0;  // relative to the data section
};

absl::Status BadHeader(absl::string_view name, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", text));
}

std::optional<DType> TypeByName(const std::string& name) {
  for (DType dtype : kStoredTypes) {
    if (DTypeName(dtype) == name) return dtype;
  }
  return std::nullopt;
}

// A list of unsigned integers below 2^62, or nullopt.
std::optional<std::vector<int64_t>> SizeList(const json& value) {
  if (!value.is_array()) return std::nullopt;
  std::vector<int64_t> sizes;
  for (const json& item : value) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > uint64_t{1} << 62) return std::nullopt;
    sizes.push_back(static_cast<int64_t>(item.get<uint64_t>()));
  }
  return sizes;
}

absl::StatusOr<Entry> ParseEntry(const std::string& tensor, const json& value,
                                 const std::string& where) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    return BadHeader(where, "expected an object with exactly dtype, shape and data_offsets");
  }
  Entry entry;
  entry.info.name = tensor;
  if (!value["dtype"].is_string()) return BadHeader(where, "dtype is not a string");
  const std::string& dtype_name = value["dtype"].get_ref<const std::string&>();
  const std::optional<DType> dtype = TypeByName(dtype_name);
  if (!dtype) {
    return BadHeader(where, absl::StrCat("dtype ", absl::Utf8SafeCHexEscape(dtype_name),
                                   " is not supported; expected F64, F32, F16, BF16, I64, I32, "
                                   "I16, I8, U8 or BOOL"));
  }
  entry.info.dtype = *dtype;
  const std::optional<std::vector<int64_t>> shape = SizeList(value["shape"]);
  if (!shape) return BadHeader(where, "shape is not a list of sizes");
  entry.info.shape = *shape;
  const std::optional<std::vector<int64_t>> offsets = SizeList(value["data_offsets"]);
  if (!offsets || offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
    return BadHeader(where, "data_offsets is not [begin, end] with begin <= end");
  }
  entry.begin = (*offsets)[0];
  entry.end = (*offsets)[1];
  const absl::StatusOr<int64_t> bytes = StorageBytes(*dtype, *shape);
  if (!bytes.ok()) return BadHeader(where, bytes.status().message());
  entry.info.bytes = *bytes;
  if (entry.end - entry.begin != *bytes) {
    return BadHeader(where, absl::StrCat("expected ", *bytes, " bytes for ", dtype_name, " ",
                                   ShapeString(*shape), ", found data_offsets [", entry.begin, ", ",
                                   entry.end, "] of ", entry.end - entry.begin, " bytes"));
  }
  return entry;
}

absl::Status ParseMetadata(const json& value, const std::string& name,
                           std::map<std::string, std::string>* out) {
  if (!value.is_object()) return BadHeader(name, "__metadata__ is not an object");
  for (const auto& [key, item] : value.items()) {
    if (!item.is_string()) {
      return BadHeader(name, absl::StrCat("__metadata__: value of \"", absl::Utf8SafeCHexEscape(key),
                                    "\" is not a string"));
    }
    (*out)[key] = item.get<std::string>();
  }
  return absl::OkStatus();
}

// Tensors must cover the data section in order, without gap or overlap.
absl::Status CheckContiguous(const std::vector<Entry>& sorted, int64_t data_bytes,
                             const std::string& name) {
  int64_t expected = 0;
  for (const Entry& entry : sorted) {
    const std::string where =
        absl::StrCat(name, ": tensor ", absl::Utf8SafeCHexEscape(entry.info.name));
    if (entry.begin != expected) {
      return BadHeader(where,
                 absl::StrCat(entry.begin < expected ? "overlaps the tensor before it"
                                                     : "leaves a gap before it",
                              ": expected data to begin at ", expected, ", found ", entry.begin));
    }
    if (entry.end > data_bytes) {
      return BadHeader(where, absl::StrCat("data ends at ", entry.end, ", but the file has only ",
                                     data_bytes, " bytes of data (truncated?)"));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    return BadHeader(name, absl::StrCat("expected ", expected, " bytes of data, found ", data_bytes));
  }
  return absl::OkStatus();
}

// Size of the JSON text, checked against the file.
absl::StatusOr<uint64_t> HeaderBytes(std::span<const uint8_t> file, const std::string& name) {
  if (file.size() < kPrefixBytes) {
    return BadHeader(name, absl::StrCat("expected at least 8 bytes of safetensors, found ", file.size()));
  }
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof(size));
  if (size > kMaxHeaderBytes) {
    return BadHeader(name, absl::StrCat("header of ", size, " bytes, expected at most ", kMaxHeaderBytes,
                                  " (not a safetensors file?)"));
  }
  if (size > file.size() - kPrefixBytes) {
    return BadHeader(name, absl::StrCat("header of ", size, " bytes does not fit into the file of ",
                                  file.size(), " bytes (truncated?)"));
  }
  return size;
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensors(std::span<const uint8_t> file,
                                                   const std::string& name) {
  const absl::StatusOr<uint64_t> header_bytes = HeaderBytes(file, name);
  if (!header_bytes.ok()) return header_bytes.status();
  const absl::string_view text(reinterpret_cast<const char*>(file.data()) + kPrefixBytes,
                               *header_bytes);
  const absl::StatusOr<json> document =
      ParseStrictJson(text, absl::StrCat(name, ": header"), {.max_depth = 8});
  if (!document.ok()) return document.status();
  if (!document->is_object()) return BadHeader(name, "header is not a JSON object");

  SafetensorsHeader header;
  std::vector<Entry> entries;
  for (const auto& [key, value] : document->items()) {
    if (key == "__metadata__") {
      if (absl::Status s = ParseMetadata(value, name, &header.metadata); !s.ok()) return s;
      continue;
    }
    absl::StatusOr<Entry> entry =
        ParseEntry(key, value, absl::StrCat(name, ": tensor ", absl::Utf8SafeCHexEscape(key)));
    if (!entry.ok()) return entry.status();
    entries.push_back(*std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const int64_t data_start = static_cast<int64_t>(kPrefixBytes + *header_bytes);
  const int64_t data_bytes = static_cast<int64_t>(file.size()) - data_start;
  if (absl::Status s = CheckContiguous(entries, data_bytes, name); !s.ok()) return s;
  for (Entry& entry : entries) {
    header.offsets.push_back(data_start + entry.begin);
    header.tensors.push_back(std::move(entry.info));
  }
  return header;
}

SafetensorsFile::SafetensorsFile(std::shared_ptr<const MappedFile> file, SafetensorsHeader header)
    : file_(std::move(file)), header_(std::move(header)) {
  for (size_t i = 0; i < header_.tensors.size(); ++i) index_[header_.tensors[i].name] = i;
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  absl::StatusOr<std::shared_ptr<const MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensors((*file)->bytes(), (*file)->name());
  if (!header.ok()) return header.status();
  return std::shared_ptr<const SafetensorsFile>(
      new SafetensorsFile(*std::move(file), *std::move(header)));
}

const TensorInfo* SafetensorsFile::Find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &header_.tensors[it->second];
}

absl::StatusOr<std::span<const uint8_t>> SafetensorsFile::Raw(const std::string& tensor) const {
  const auto it = index_.find(tensor);
  if (it == index_.end()) {
    return absl::NotFoundError(absl::StrCat(file_->name(), ": no tensor ", tensor));
  }
  return file_->bytes().subspan(header_.offsets[it->second], header_.tensors[it->second].bytes);
}

}  // namespace finetuned::format
