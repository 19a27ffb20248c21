#include "engine/export/gguf_export.h"

#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/export/gguf_base_metadata.h"
#include "engine/export/gguf_names.h"
#include "engine/format/gguf_writer.h"
#include "engine/format/quantize.h"

namespace finetuned::exports {
namespace {

using format::DType;
using Layouts = std::vector<format::GgufWriter::Layout>;

absl::Status WriteTensor(const std::vector<float>& numbers, const format::GgufWriter::Layout& layout,
                         format::GgufWriter* writer, int64_t* done) {
  std::vector<uint8_t> bytes(*format::StorageBytes(layout.dtype, layout.shape));
  absl::Status s = format::EncodeFromF32(layout.dtype, numbers, bytes);
  if (!s.ok()) return absl::InvalidArgumentError(absl::StrCat("tensor ", layout.name, ": ", s.message()));
  *done += static_cast<int64_t>(bytes.size());
  return writer->Append(layout.name, bytes);
}

absl::StatusOr<std::unique_ptr<format::GgufWriter>> Start(const std::string& path,
                                                          const format::GgufMetadataBuilder& metadata,
                                                          const Layouts& layouts, int64_t* total) {
  const auto bytes = format::GgufWriter::FileBytes(metadata, layouts);
  if (!bytes.ok()) return bytes.status();
  *total = *bytes;
  absl::Status s = CheckFreeSpace(std::filesystem::path(path).parent_path().string(), *bytes);
  if (!s.ok()) return s;
  return format::GgufWriter::Create(path, metadata, layouts);
}

}  // namespace

absl::Status WriteGguf(const MergedWeights& weights, const GgufOptions& options, const std::string& path,
                       const Progress& progress) {
  const format::ModelSource& base = weights.base();
  const absl::StatusOr<GgufNames> names = GgufNamesOf(base);
  if (!names.ok()) return names.status();
  auto head = BaseMetadata(base, options.base_path, names->architecture, options.name, options.quantization->file_type);
  if (!head.ok()) return head.status();
  Layouts layouts;
  for (const ExtraTensor& extra : head->tensors) {
    layouts.push_back({extra.name, DType::kF32, {static_cast<int64_t>(extra.numbers.size())}});
  }
  for (const format::TensorInfo& tensor : base.tensors()) {
    const std::string& name = names->to_gguf.at(tensor.name);
    layouts.push_back({name, GgufTypeOf(*options.quantization, base.config(), name, tensor.shape), tensor.shape});
  }
  int64_t total = 0, done = 0;
  auto writer = Start(path, head->metadata, layouts, &total);
  if (!writer.ok()) return writer.status();
  size_t next = 0;
  absl::Status s;
  for (const ExtraTensor& extra : head->tensors) {
    if (s = WriteTensor(extra.numbers, layouts[next++], writer->get(), &done); !s.ok()) return s;
  }
  for (const format::TensorInfo& tensor : base.tensors()) {
    auto numbers = weights.Read(tensor);
    if (!numbers.ok()) return numbers.status();
    ToGgufNumbers(*names, base.config(), tensor.name, tensor.shape[0], &*numbers);
    s = WriteTensor(*numbers, layouts[next++], writer->get(), &done);
    if (s.ok()) s = Report(progress, done, total);
    if (!s.ok()) return s;
  }
  return (*writer)->Finish();
}

absl::Status WriteLoraGguf(const MergedWeights& weights, const GgufOptions& options, const std::string& path,
                           const Progress& progress) {
  const format::ModelSource& base = weights.base();
  const AdapterWeights& adapter = *weights.adapter();
  const absl::StatusOr<GgufNames> names = GgufNamesOf(base);
  if (!names.ok()) return names.status();
  if (!adapter.replaced().empty()) {
    return absl::UnimplementedError(absl::StrCat("tensor ", adapter.replaced().begin()->first,
                                                 ": a LoRA GGUF cannot replace tensors; export to gguf instead"));
  }
  Layouts layouts;
  const double alpha = adapter.modules().begin()->second.alpha;
  for (const auto& [name, module] : adapter.modules()) {
    if (!module.magnitude.empty()) {
      return absl::UnimplementedError("a LoRA GGUF cannot hold DoRA's magnitudes; export to gguf instead");
    }
    const std::string& tensor = names->to_gguf.at(name + ".weight");
    layouts.push_back({tensor + ".lora_a", DType::kF32, {module.rank, module.in}});
    layouts.push_back({tensor + ".lora_b", DType::kF32, {module.out, module.rank}});
  }
  format::GgufMetadataBuilder metadata;
  metadata.String("general.architecture", names->architecture);
  metadata.String("general.type", "adapter");
  metadata.String("general.name", options.name);
  metadata.U32("general.file_type", 0);
  metadata.String("adapter.type", "lora");
  metadata.F32("adapter.lora.alpha", static_cast<float>(alpha));
  int64_t total = 0, done = 0;
  auto writer = Start(path, metadata, layouts, &total);
  if (!writer.ok()) return writer.status();
  size_t next = 0;
  for (const auto& [name, module] : adapter.modules()) {
    auto a = adapter.Read(module.a), b = adapter.Read(module.b);
    if (!a.ok()) return a.status();
    if (!b.ok()) return b.status();
    // llama.cpp multiplies with alpha / rank.
    const float ratio = static_cast<float>(module.scaling * static_cast<double>(module.rank) / alpha);
    if (ratio != 1.0f) {
      for (float& x : *b) x *= ratio;
    }
    const int64_t heads = InterleavedHeads(*names, base.config(), name + ".weight");
    if (heads > 0) InterleaveRows(heads, module.out, &*b);
    absl::Status s = WriteTensor(*a, layouts[next++], writer->get(), &done);
    if (s.ok()) s = WriteTensor(*b, layouts[next++], writer->get(), &done);
    if (s.ok()) s = Report(progress, done, total);
    if (!s.ok()) return s;
  }
  return (*writer)->Finish();
}

}  // namespace finetuned::exports
