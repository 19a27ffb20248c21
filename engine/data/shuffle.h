#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace finetuned::data {

// SplitMix64 (Steele, Lea, Flood 2014; constants of the public-domain reference by S. Vigna). Our
// own instead of <random>, whose distributions and std::shuffle differ between libraries: an order
// drawn before a crash must come out the same from any later build.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // Uniform in [0, bound), without bias: draws from the uneven tail are thrown away.
  // REQUIRES: bound > 0
  uint64_t Below(uint64_t bound) {
    const uint64_t tail = (0 - bound) % bound;  // 2^64 mod bound
    uint64_t draw;
    do {
      draw = Next();
    } while (draw < tail);
    return draw % bound;
  }

 private:
  uint64_t state_;
};

// The generator of one epoch: epochs of a seed and seeds of an epoch are unrelated.
inline SplitMix64 EpochGenerator(uint64_t seed, int64_t epoch) {
  const uint64_t mixed = SplitMix64(seed).Next();
  return SplitMix64(mixed ^ SplitMix64(~static_cast<uint64_t>(epoch)).Next());
}

// Fisher-Yates from the last element down.
template <typename T>
void Shuffle(SplitMix64* generator, std::vector<T>* items) {
  for (size_t i = items->size(); i > 1; --i) {
    std::swap((*items)[i - 1], (*items)[generator->Below(i)]);
  }
}

}  // namespace finetuned::data
