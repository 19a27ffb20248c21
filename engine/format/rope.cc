#include "engine/format/rope.h"

#include <cmath>
#include <numbers>

namespace finetuned::format {
namespace {

// Long wavelengths are divided by the factor, short ones kept, those between blended.
float Llama3Frequency(float frequency, const RopeScaling& s) {
  const double context = static_cast<double>(s.original_max_position_embeddings);
  const float low_wavelength = static_cast<float>(context / s.low_freq_factor);
  const float high_wavelength = static_cast<float>(context / s.high_freq_factor);
  const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
  const float factor = static_cast<float>(s.factor);
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const float smooth =
      (static_cast<float>(context) / wavelength - static_cast<float>(s.low_freq_factor)) /
      static_cast<float>(s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<double> InverseFrequencies(const ModelConfig& config, RopeTable table) {
  const RopeScaling& scaling = config.rope_scaling;
  const bool local = table == RopeTable::kLocal;
  const float base = static_cast<float>(local ? config.local_rope_theta : config.rope_theta);
  const float dim = static_cast<float>(config.rotary_size());
  const RopeScaling::Type type = local ? RopeScaling::Type::kNone : scaling.type;
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.rotary_size() / 2; ++i) {
    // Through double: powf's last bit depends on the C library, the rounded double does not.
    const float power = static_cast<float>(
        std::pow(static_cast<double>(base), static_cast<double>(static_cast<float>(2 * i) / dim)));
    float frequency = 1.0f / power;
    switch (type) {
      case RopeScaling::Type::kNone:
        break;
      case RopeScaling::Type::kLinear:
        frequency /= static_cast<float>(scaling.factor);
        break;
      case RopeScaling::Type::kLlama3:
        frequency = Llama3Frequency(frequency, scaling);
        break;
      case RopeScaling::Type::kDivisors:
        frequency /= scaling.divisors[i];
        break;
      case RopeScaling::Type::kLongRope:
        frequency = 1.0f / ((table == RopeTable::kLong ? scaling.long_divisors : scaling.divisors)[i] * power);
        break;
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace finetuned::format
