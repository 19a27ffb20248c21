// Reads tests/golden/kernels/kernels.json and rebuilds the inputs its script used.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace finetuned::kernels {

const nlohmann::json& Goldens();

// "float32", "bfloat16" or "float16", as the script calls them.
at::ScalarType TypeNamed(const std::string& name);

// n float32 in [-1, 1), the script's uniform().
at::Tensor GoldenUniform(int64_t n, uint32_t seed);

// The script's weight(), rounded to dtype.
at::Tensor GoldenWeight(int64_t n, uint32_t seed, at::ScalarType dtype);

// [length, crc32] of the bytes, as the script writes them.
nlohmann::json Crc(const at::Tensor& x);

}  // namespace finetuned::kernels
