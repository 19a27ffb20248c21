#include "engine/format/gguf_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace finetuned::format {
namespace {

constexpr uint64_t kMaxNameBytes = 65535;
constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxDims = 4;
constexpr int64_t kMaxAlignment = 1 << 20;

absl::Status Bad(absl::string_view where, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", text));
}

// Bytes of a scalar, or the least a string (8) or a nested array (12) can take.
uint64_t LeastBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kArray:
      return 12;
    default:
      return 8;
  }
}

// Reads forward through the header and never past the end of the file.
class Cursor {
 public:
  Cursor(std::span<const uint8_t> file, std::string name) : file_(file), name_(std::move(name)) {}

  size_t position() const { return position_; }
  uint64_t remaining() const { return file_.size() - position_; }
  std::span<const uint8_t> Since(size_t begin) const {
    return file_.subspan(begin, position_ - begin);
  }

  absl::Status Skip(uint64_t bytes, absl::string_view what) {
    if (bytes > remaining()) {
      return Bad(name_, absl::StrCat(what, " needs ", bytes, " bytes at ", position_,
                                     ", but the file ends at ", file_.size(), " (truncated?)"));
    }
    position_ += bytes;
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status Read(absl::string_view what, T* value) {
    if (absl::Status s = Skip(sizeof(T), what); !s.ok()) return s;
    std::memcpy(value, file_.data() + position_ - sizeof(T), sizeof(T));
    return absl::OkStatus();
  }

  absl::Status ReadString(absl::string_view what, uint64_t max_bytes,
                          std::span<const uint8_t>* value) {
    uint64_t length = 0;
    if (absl::Status s = Read(what, &length); !s.ok()) return s;
    if (length > max_bytes) {
      return Bad(name_, absl::StrCat(what, ": length ", length, ", expected at most ", max_bytes));
    }
    const size_t begin = position_;
    if (absl::Status s = Skip(length, what); !s.ok()) return s;
    *value = Since(begin);
    return absl::OkStatus();
  }

  absl::Status ReadName(absl::string_view what, std::string* value) {
    std::span<const uint8_t> bytes;
    if (absl::Status s = ReadString(what, kMaxNameBytes, &bytes); !s.ok()) return s;
    if (bytes.empty()) return Bad(name_, absl::StrCat(what, " is empty"));
    value->assign(bytes.begin(), bytes.end());
    return absl::OkStatus();
  }

 private:
  const std::span<const uint8_t> file_;
  const std::string name_;
  size_t position_ = 0;
};

class Parser {
 public:
  Parser(std::span<const uint8_t> file, const std::string& name)
      : file_(file), name_(name), in_(file, name) {}

  absl::StatusOr<GgufLayout> Run() {
    uint64_t tensors = 0, values = 0;
    if (absl::Status s = ReadPreamble(&tensors, &values); !s.ok()) return s;
    layout_.metadata = GgufMetadata(name_);
    for (uint64_t i = 0; i < values; ++i) {
      if (absl::Status s = ReadMetadata(i); !s.ok()) return s;
    }
    if (absl::Status s = ReadAlignment(); !s.ok()) return s;
    for (uint64_t i = 0; i < tensors; ++i) {
      if (absl::Status s = ReadTensor(i); !s.ok()) return s;
    }
    if (absl::Status s = PlaceTensors(); !s.ok()) return s;
    return std::move(layout_);
  }

 private:
  absl::Status ReadPreamble(uint64_t* tensors, uint64_t* values);
  absl::Status ReadMetadata(uint64_t index);
  absl::Status ReadValue(GgufType type, absl::string_view what, int depth, GgufValue* value);
  absl::Status ReadArray(absl::string_view what, int depth, GgufValue* value);
  absl::Status ReadAlignment();
  absl::Status ReadTensor(uint64_t index);
  absl::Status ReadShape(absl::string_view where, std::vector<int64_t>* shape);
  absl::Status PlaceTensors();

  const std::span<const uint8_t> file_;
  const std::string name_;
  Cursor in_;
  GgufLayout layout_;
  std::unordered_set<std::string> tensor_names_;
};

absl::Status Parser::ReadPreamble(uint64_t* tensors, uint64_t* values) {
  if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) {
    return Bad(name_, "not a GGUF file: expected it to begin with the bytes GGUF");
  }
  uint32_t magic = 0;
  if (absl::Status s = in_.Read("magic", &magic); !s.ok()) return s;
  if (absl::Status s = in_.Read("version", &layout_.version); !s.ok()) return s;
  if (layout_.version != 2 && layout_.version != 3) {
    const bool swapped = layout_.version != 0 && (layout_.version & 0xffff) == 0;
    return absl::UnimplementedError(
        absl::StrCat(name_, ": GGUF version ", layout_.version, swapped ? " (big endian?)" : "",
                     " is not supported; supported: 2 and 3, little endian"));
  }
  if (absl::Status s = in_.Read("tensor count", tensors); !s.ok()) return s;
  if (absl::Status s = in_.Read("metadata count", values); !s.ok()) return s;
  // Least sizes: a tensor has name (8 + 1), dims (4 + 8), type (4), offset (8); a value has key
  // (8 + 1), type (4) and one byte.
  if (*tensors > in_.remaining() / 33) {
    return Bad(name_, absl::StrCat("tensor count ", *tensors, " does not fit into the file of ",
                                   file_.size(), " bytes"));
  }
  if (*values > in_.remaining() / 14) {
    return Bad(name_, absl::StrCat("metadata count ", *values, " does not fit into the file of ",
                                   file_.size(), " bytes"));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadMetadata(uint64_t index) {
  std::string key;
  if (absl::Status s = in_.ReadName(absl::StrCat("metadata key ", index), &key); !s.ok()) return s;
  const std::string what = absl::StrCat("metadata ", absl::Utf8SafeCHexEscape(key));
  uint32_t type = 0;
  if (absl::Status s = in_.Read(what, &type); !s.ok()) return s;
  GgufValue value;
  if (absl::Status s = ReadValue(static_cast<GgufType>(type), what, 0, &value); !s.ok()) return s;
  if (!layout_.metadata.Insert(key, value)) return Bad(name_, what + " is there twice");
  return absl::OkStatus();
}

absl::Status Parser::ReadValue(GgufType type, absl::string_view what, int depth, GgufValue* value) {
  if (static_cast<uint32_t>(type) > static_cast<uint32_t>(GgufType::kF64)) {
    return Bad(name_, absl::StrCat(what, ": value type ", static_cast<uint32_t>(type),
                                   " is unknown, expected 0 to 12"));
  }
  value->type = type;
  if (type == GgufType::kArray) return ReadArray(what, depth, value);
  if (type == GgufType::kString) return in_.ReadString(what, UINT64_MAX, &value->bytes);
  const size_t begin = in_.position();
  if (absl::Status s = in_.Skip(LeastBytes(type), what); !s.ok()) return s;
  value->bytes = in_.Since(begin);
  if (type == GgufType::kBool && value->bytes[0] > 1) {
    return Bad(name_, absl::StrCat(what, ": expected 0 or 1 for a bool, found ",
                                   static_cast<int>(value->bytes[0])));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadArray(absl::string_view what, int depth, GgufValue* value) {
  if (depth >= kMaxArrayDepth) {
    return Bad(name_, absl::StrCat(what, ": arrays nested deeper than ", kMaxArrayDepth));
  }
  uint32_t element = 0;
  if (absl::Status s = in_.Read(what, &element); !s.ok()) return s;
  if (absl::Status s = in_.Read(what, &value->count); !s.ok()) return s;
  value->element = static_cast<GgufType>(element);
  if (element > static_cast<uint32_t>(GgufType::kF64)) {
    return Bad(name_, absl::StrCat(what, ": element type ", element, " is unknown"));
  }
  const uint64_t least = LeastBytes(value->element);
  if (value->count > in_.remaining() / least) {
    return Bad(name_,
               absl::StrCat(what, ": array of ", value->count, " elements does not fit into the ",
                            in_.remaining(), " bytes left in the file"));
  }
  const size_t begin = in_.position();
  if (value->element == GgufType::kString || value->element == GgufType::kArray) {
    GgufValue ignored;
    for (uint64_t i = 0; i < value->count; ++i) {
      if (absl::Status s = ReadValue(value->element, what, depth + 1, &ignored); !s.ok()) return s;
    }
  } else if (absl::Status s = in_.Skip(value->count * least, what); !s.ok()) {
    return s;
  }
  value->bytes = in_.Since(begin);
  return absl::OkStatus();
}

absl::Status Parser::ReadAlignment() {
  const absl::StatusOr<std::optional<int64_t>> alignment =
      layout_.metadata.Int("general.alignment");
  if (!alignment.ok()) return alignment.status();
  layout_.alignment = alignment->value_or(32);
  if (layout_.alignment < 1 || layout_.alignment > kMaxAlignment ||
      !std::has_single_bit(static_cast<uint64_t>(layout_.alignment))) {
    return Bad(name_, absl::StrCat("metadata general.alignment: expected a power of two up to ",
                                   kMaxAlignment, ", found ", layout_.alignment));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadShape(absl::string_view where, std::vector<int64_t>* shape) {
  uint32_t dims = 0;
  if (absl::Status s = in_.Read(where, &dims); !s.ok()) return s;
  if (dims < 1 || dims > kMaxDims) {
    return Bad(name_,
               absl::StrCat(where, ": expected 1 to ", kMaxDims, " dimensions, found ", dims));
  }
  shape->resize(dims);
  for (uint32_t i = 0; i < dims; ++i) {
    uint64_t size = 0;
    if (absl::Status s = in_.Read(where, &size); !s.ok()) return s;
    if (size == 0 || size > uint64_t{1} << 62) {
      return Bad(name_,
                 absl::StrCat(where, ": dimension ", i, ": expected 1 to 2^62, found ", size));
    }
    (*shape)[dims - 1 - i] = static_cast<int64_t>(size);
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadTensor(uint64_t index) {
  GgufTensor tensor;
  TensorInfo& info = tensor.info;
  if (absl::Status s = in_.ReadName(absl::StrCat("tensor name ", index), &info.name); !s.ok()) {
    return s;
  }
  const std::string where = absl::StrCat("tensor ", absl::Utf8SafeCHexEscape(info.name));
  if (!tensor_names_.insert(info.name).second) return Bad(name_, where + " is there twice");
  if (absl::Status s = ReadShape(where, &info.shape); !s.ok()) return s;
  uint32_t type = 0;
  if (absl::Status s = in_.Read(where, &type); !s.ok()) return s;
  const std::optional<DType> dtype = DTypeOfGgml(type);
  if (!dtype) {
    return absl::UnimplementedError(absl::StrCat(name_, ": ", where, ": ggml type ", type,
                                                 " is not supported; supported: F32, F16, BF16, "
                                                 "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"));
  }
  info.dtype = *dtype;
  const absl::StatusOr<int64_t> bytes = StorageBytes(*dtype, info.shape);
  if (!bytes.ok()) return Bad(name_, absl::StrCat(where, ": ", bytes.status().message()));
  info.bytes = *bytes;
  uint64_t offset = 0;
  if (absl::Status s = in_.Read(where, &offset); !s.ok()) return s;
  if (offset % layout_.alignment != 0) {
    return Bad(name_, absl::StrCat(where, ": offset ", offset,
                                   " is not a multiple of the alignment ", layout_.alignment));
  }
  if (offset > file_.size() || static_cast<uint64_t>(info.bytes) > file_.size() - offset) {
    return Bad(name_, absl::StrCat(where, ": ", info.bytes, " bytes at data offset ", offset,
                                   " do not fit into the file of ", file_.size(), " bytes"));
  }
  tensor.offset = static_cast<int64_t>(offset);
  layout_.tensors.push_back(std::move(tensor));
  return absl::OkStatus();
}

// Turns offsets within the data section into offsets within the file; checks ends and overlaps.
absl::Status Parser::PlaceTensors() {
  const int64_t alignment = layout_.alignment;
  const int64_t data =
      (static_cast<int64_t>(in_.position()) + alignment - 1) / alignment * alignment;
  std::vector<const GgufTensor*> sorted;
  for (GgufTensor& tensor : layout_.tensors) {
    tensor.offset += data;
    sorted.push_back(&tensor);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  const GgufTensor* previous = nullptr;
  for (const GgufTensor* tensor : sorted) {
    const std::string where = absl::StrCat("tensor ", absl::Utf8SafeCHexEscape(tensor->info.name));
    const int64_t end = tensor->offset + tensor->info.bytes;
    if (end > static_cast<int64_t>(file_.size())) {
      return Bad(name_, absl::StrCat(where, ": data ends at ", end, ", but the file ends at ",
                                     file_.size(), " (truncated?)"));
    }
    if (previous != nullptr && tensor->offset < previous->offset + previous->info.bytes) {
      return Bad(name_, absl::StrCat(where, " overlaps tensor ",
                                     absl::Utf8SafeCHexEscape(previous->info.name)));
    }
    previous = tensor;
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<DType> DTypeOfGgml(uint32_t number) {
  switch (number) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 6:
      return DType::kQ5_0;
    case 7:
      return DType::kQ5_1;
    case 8:
      return DType::kQ8_0;
    case 12:
      return DType::kQ4_K;
    case 13:
      return DType::kQ5_K;
    case 14:
      return DType::kQ6_K;
    case 24:
      return DType::kI8;
    case 25:
      return DType::kI16;
    case 26:
      return DType::kI32;
    case 27:
      return DType::kI64;
    case 28:
      return DType::kF64;
    case 30:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<GgufLayout> ParseGguf(std::span<const uint8_t> file, const std::string& name) {
  return Parser(file, name).Run();
}

}  // namespace finetuned::format
