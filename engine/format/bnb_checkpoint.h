// Weights that bitsandbytes stored quantized (load_in_4bit and load_in_8bit checkpoints), taken as they are.
// 4 bits: X.weight (codes), X.weight.absmax, X.weight.quant_map, with double quantization X.weight.nested_absmax and
// X.weight.nested_quant_map, and X.weight.quant_state.bitsandbytes__nf4 or __fp4: JSON with shape, block sizes and offset.
// 8 bits: X.weight (int8), X.SCB (absmax of the rows), X.weight_format. Source: bitsandbytes 0.50, nn/modules.py.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

// One matrix. Spans are those of the file.
struct BnbWeight {
  enum class Kind { kNf4, kFp4, kInt8 } kind = Kind::kNf4;
  std::vector<int64_t> shape;          // [out, in]
  std::span<const uint8_t> codes;      // 4 bits: two a byte, the first in the high half; kInt8: [out, in]
  // 4 bits: value = code_map[code] * absmax of its block of 64.
  std::vector<float> code_map;         // 16, as stored
  bool nested = false;                 // absmax = nested_map[absmax_codes] * nested_absmax of its block of 256 + offset
  std::vector<float> absmax;           // not nested
  std::span<const uint8_t> absmax_codes;
  std::vector<float> nested_absmax, nested_map;
  float offset = 0;
  std::vector<float> row_absmax;       // kInt8: value = code * (row_absmax * (1 / 127))
};

// Finds such weights by their names, takes the tensors that belong to them out of both lists, gives the codes the type
// kBnb and the shape of the matrix, and adds the weights to `found`. INVALID_ARGUMENT names file, tensor, expected and
// found; UNIMPLEMENTED: a block size other than 64 and 256.
absl::Status FoldBnbWeights(const std::string& file, std::vector<TensorInfo>* tensors,
                            std::vector<std::span<const uint8_t>>* bytes, std::map<std::string, BnbWeight>* found);

// out: number of elements floats; rounded as bitsandbytes does in float32.
void DecodeBnb(const BnbWeight& weight, std::span<float> out);

}  // namespace finetuned::format
