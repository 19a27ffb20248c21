#include "tests/unit/kernels/goldens.h"

#include <ATen/ATen.h>

#include <cmath>
#include <fstream>
#include <map>

namespace finetuned::kernels {

const nlohmann::json& Goldens() {
  static const nlohmann::json goldens = nlohmann::json::parse(
      std::ifstream(FINETUNED_SOURCE_DIR "/tests/golden/kernels/kernels.json"));
  return goldens;
}

at::Tensor GoldenUniform(int64_t n, uint32_t seed) {
  at::Tensor out = at::empty({n}, at::kFloat);
  for (int64_t i = 0; i < n; ++i) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed * 40503u;
    x = (x ^ x >> 15) * 0x2C1B3C6Du;
    x = (x ^ x >> 12) * 0x297A2D39u;
    x ^= x >> 15;
    out.data_ptr<float>()[i] = static_cast<float>(x >> 8) * 0x1p-23f - 1.0f;
  }
  return out;
}

at::Tensor GoldenWeight(int64_t n, uint32_t seed, at::ScalarType dtype) {
  at::Tensor w = GoldenUniform(n, seed);
  float* x = w.data_ptr<float>();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t block = i / 64;
    const float square = x[i] * x[i];
    x[i] = block == 3 ? 0.0f : std::ldexp(square * x[i], -static_cast<int>(block % 5));
  }
  return w.to(dtype);
}

at::ScalarType TypeNamed(const std::string& name) {
  return std::map<std::string, at::ScalarType>{
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}}
      .at(name);
}

nlohmann::json Crc(const at::Tensor& x) {
  const at::Tensor host = x.cpu().contiguous();
  const uint8_t* bytes = static_cast<const uint8_t*>(host.data_ptr());
  uint32_t crc = ~0u;
  for (size_t i = 0; i < host.nbytes(); ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return {host.nbytes(), ~crc};
}

}  // namespace finetuned::kernels
