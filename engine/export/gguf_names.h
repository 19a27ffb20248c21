#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/model_source.h"

namespace finetuned::exports {

// How a base's tensors are called and laid out in a GGUF file.
struct GgufNames {
  std::string architecture;                    // general.architecture
  std::map<std::string, std::string> to_gguf;  // Hugging Face name -> GGUF name
  bool interleaved_rope = false;               // rows of q and k lie in llama.cpp's order
};

// UNIMPLEMENTED for what the architecture's files have no place for.
absl::StatusOr<GgufNames> GgufNamesOf(const format::ModelSource& base);

// Heads whose rows are interleaved; 0 for other tensors.
int64_t InterleavedHeads(const GgufNames& names, const format::ModelConfig& config, const std::string& hf_name);

// Rows from Hugging Face's order (head, half, pair) to llama.cpp's (head, pair, half). rows % (2 * heads) == 0.
void InterleaveRows(int64_t heads, int64_t rows, std::vector<float>* numbers);

// A tensor of Hugging Face's numbers as GGUF holds it: rows in llama.cpp's order, Gemma's norms with their 1.
void ToGgufNumbers(const GgufNames& names, const format::ModelConfig& config, const std::string& hf_name, int64_t rows,
                   std::vector<float>* numbers);

}  // namespace finetuned::exports
