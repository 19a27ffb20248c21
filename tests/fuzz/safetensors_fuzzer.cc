// A safetensors file: every tensor that the header names lies in the file and can be decoded.
#include <vector>

#include "engine/format/dequantize.h"
#include "engine/format/safetensors_reader.h"
#include "fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace finetuned;
  const std::span<const uint8_t> file(data, size);
  const auto header = format::ParseSafetensors(file, "a/model.safetensors");
  if (!header.ok()) return 0;
  fuzz::Require(header->tensors.size() == header->offsets.size(), "one offset per tensor");
  for (size_t i = 0; i < header->tensors.size(); ++i) {
    const format::TensorInfo& tensor = header->tensors[i];
    const int64_t offset = header->offsets[i];
    fuzz::Require(offset >= 8 && tensor.bytes >= 0 && static_cast<uint64_t>(offset) + tensor.bytes <= size,
                  "a tensor lies in the file");
    const auto count = format::ElementCount(tensor.shape);
    fuzz::Require(count.ok(), "the number of elements is known");
    if (!format::IsWeightType(tensor.dtype)) continue;
    std::vector<float> numbers(*count);
    fuzz::Require(format::DecodeToF32(tensor.dtype, file.subspan(offset, tensor.bytes), numbers).ok(),
                  "a weight can be decoded");
  }
  return 0;
}
