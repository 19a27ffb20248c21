// Truth of the optimizers. Compiled without contraction into fused multiply-adds.
#include <ATen/Parallel.h>

#include <algorithm>

#include "kernels/adamw_params.h"
#include "kernels/blockwise8.h"

namespace finetuned::kernels {
namespace {

constexpr int64_t kBlock = 256;

bool Skipped(const AdamWScalars& s) { return s.skip && *s.skip != 0.0f; }
float GradScale(const AdamWScalars& s) { return s.grad_scale ? *s.grad_scale : 1.0f; }

void TorchRange(const AdamWTensor& t, const AdamWScalars& s, float scale, int64_t begin,
                int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    TorchAdamWElement(s, t.g[i] * scale, t.p + i, t.m + i, t.v + i);
  }
}

void BnbRange(const AdamWTensor& t, const AdamWScalars& s, float scale, int64_t begin,
              int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const Moments x = BnbMoments(s, t.g[i] * scale, t.m[i], t.v[i]);
    t.m[i] = x.m;
    t.v[i] = x.v;
    t.p[i] = BnbParameter(s, t.p[i], x);
  }
}

void Step8bitBlock(const Adam8bitTensor& t, const AdamWScalars& s, float scale, int64_t block) {
  const float* signed_map = SignedDynamicMap().data();
  const float* unsigned_map = UnsignedDynamicMap().data();
  const int64_t begin = block * kBlock, count = std::min(kBlock, t.n - begin);
  Moments x[kBlock];
  float top_m = 0, top_v = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float g = t.g[begin + i];
    if (IsFinite(g)) {
      const float m = signed_map[t.m_codes[begin + i]] * t.m_absmax[block];
      const float v = unsigned_map[t.v_codes[begin + i]] * t.v_absmax[block];
      x[i] = BnbMoments(s, g * scale, m, v);
      t.p[begin + i] = BnbParameter(s, t.p[begin + i], x[i]);
    } else {
      x[i] = {0.0f, 0.0f};
    }
    top_m = std::max(top_m, std::fabs(x[i].m));
    top_v = std::max(top_v, std::fabs(x[i].v));
  }
  for (int64_t i = 0; i < count; ++i) {
    t.m_codes[begin + i] = static_cast<uint8_t>(SignedCode(signed_map, x[i].m, top_m));
    t.v_codes[begin + i] = static_cast<uint8_t>(UnsignedCode(unsigned_map, x[i].v, top_v));
  }
  t.m_absmax[block] = top_m;
  t.v_absmax[block] = top_v;
}

}  // namespace

void AdamWCpu(const std::vector<AdamWTensor>& tensors, const AdamWScalars& s) {
  if (Skipped(s)) return;
  const float scale = GradScale(s);
  for (const AdamWTensor& t : tensors) {
    at::parallel_for(0, t.n, 32768, [&](int64_t begin, int64_t end) {
      s.bnb ? BnbRange(t, s, scale, begin, end) : TorchRange(t, s, scale, begin, end);
    });
  }
}

void Adam8bitCpu(const std::vector<Adam8bitTensor>& tensors, const AdamWScalars& s) {
  if (Skipped(s)) return;
  const float scale = GradScale(s);
  for (const Adam8bitTensor& t : tensors) {
    at::parallel_for(0, (t.n + kBlock - 1) / kBlock, 16, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) Step8bitBlock(t, s, scale, block);
    });
  }
}

}  // namespace finetuned::kernels
