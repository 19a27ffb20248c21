// Reads tests/golden/kernels/kernels.json and rebuilds the inputs its script used.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>

namespace finetuned::kernels {

const nlohmann::json& Goldens();

// n float32 in [-1, 1), the script's uniform().
at::Tensor GoldenUniform(int64_t n, uint32_t seed);

// The script's weight(), rounded to dtype.
at::Tensor GoldenWeight(int64_t n, uint32_t seed, at::ScalarType dtype);

// [length, crc32] of the bytes, as the script writes them.
nlohmann::json Crc(const at::Tensor& x);

}  // namespace finetuned::kernels
