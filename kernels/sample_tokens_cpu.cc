// Truth of the choice of tokens: sorts where the GPU selects by digits.
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/sample_tokens_params.h"

namespace finetuned::kernels {
namespace {

// Largest of x and the logarithm of the sum of e^(scale * x).
double LogSumExp(const float* x, int64_t n, float scale) {
  const float top = *std::max_element(x, x + n) * scale;
  double sum = 0;
  for (int64_t v = 0; v < n; ++v) sum += std::exp(x[v] * scale - top);
  return top + std::log(sum);
}

// Smallest value that top_k, top_p and min_p keep.
float Threshold(const std::vector<float>& y, const SamplingRow& row) {
  const float top = *std::max_element(y.begin(), y.end());
  float lowest = -INFINITY;
  std::vector<float> sorted;
  if (row.top_k > 0 || row.top_p < 1.0f) sorted = y;
  if (row.top_k > 0 && row.top_k < static_cast<int64_t>(y.size())) {
    const auto last = sorted.begin() + (row.top_k - 1);
    std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
    lowest = *last;
  }
  if (row.top_p < 1.0f) {
    std::erase_if(sorted, [&](float v) { return v < lowest; });
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    uint64_t whole = 0;
    for (float v : sorted) whole += FixedShare(std::exp(v - top));
    const uint64_t wanted = static_cast<uint64_t>(static_cast<double>(row.top_p) * static_cast<double>(whole));
    uint64_t above = 0, together = 0;  // of all larger values; of the value itself so far
    for (size_t i = 0; i < sorted.size(); ++i) {
      if (i > 0 && sorted[i] != sorted[i - 1]) {
        above += together;
        together = 0;
        if (above >= wanted) break;
      }
      together += FixedShare(std::exp(sorted[i] - top));
      lowest = sorted[i];
    }
  }
  return row.log_min_p < 0.0f ? std::max(lowest, top + row.log_min_p) : lowest;
}

int64_t Choose(const std::vector<float>& y, const SamplingRow& row, int64_t position) {
  if (row.inverse_temperature == 0.0f) return std::max_element(y.begin(), y.end()) - y.begin();
  const float threshold = Threshold(y, row);
  const float top = *std::max_element(y.begin(), y.end());
  const uint64_t stream = uint64_t{row.sample} << 32 |
                          static_cast<uint32_t>(position + 1 - row.prompt_tokens);
  int64_t best = 0;
  float largest = -INFINITY;
  PhiloxWords words = {};
  int64_t drawn = -1;
  for (int64_t v = 0; v < static_cast<int64_t>(y.size()); ++v) {
    if (y[v] < threshold || y[v] < top - kHopeless) continue;
    if (v / 4 != drawn) words = Philox(static_cast<uint64_t>(drawn = v / 4), stream, row.seed);
    const float score = y[v] - std::log(-std::log1p(-NoiseShare(words.v[v % 4])));
    if (score > largest) {
      largest = score;
      best = v;
    }
  }
  return best;
}

void SampleRow(const SampleTokensParams& p, int64_t b, std::vector<float>* scratch) {
  const int64_t slot = p.slots[b];
  const SamplingRow& row = p.rows[slot];
  const float* x = p.logits + b * p.V;
  uint32_t* seen = p.seen + slot * p.W;
  std::vector<float>& y = *scratch;
  y.resize(static_cast<size_t>(p.V));
  const bool penalized = row.penalty != 1.0f;
  for (int64_t v = 0; v < p.V; ++v) {
    y[v] = Adjusted(x[v], penalized && Seen(seen, v), row.penalty, row.inverse_temperature);
  }
  const int64_t token = Choose(y, row, p.positions[slot]);
  const float scale = row.inverse_temperature > 0.0f ? row.inverse_temperature : 1.0f;
  const float logprob = static_cast<float>(static_cast<double>(x[token] * scale) - LogSumExp(x, p.V, scale));
  seen[token / 32] |= 1u << (token % 32);
  p.tokens[slot] = p.out[b] = static_cast<int32_t>(token);
  p.out[p.B + b] = std::bit_cast<int32_t>(logprob);
  p.positions[slot] += 1;
}

}  // namespace

void SampleTokensCpu(const SampleTokensParams& p) {
  at::parallel_for(0, p.B, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t b = begin; b < end; ++b) SampleRow(p, b, &scratch);
  });
}

}  // namespace finetuned::kernels
