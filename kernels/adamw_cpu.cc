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

// One block of a parameter, widened to float32.
struct Block {
  float m[kBlock];
  float v[kBlock];
};

// Moments after the gradient and the parameter after the step. A gradient that is not finite
// clears its moments and leaves its parameter.
void UpdateBlock(const Adam8bitTensor& t, const AdamWScalars& s, float scale, int64_t block,
                 int64_t count, Block* x) {
  const float* signed_map = SignedDynamicMap().data();
  const float* unsigned_map = UnsignedDynamicMap().data();
  const float absmax_m = t.m_absmax[block], absmax_v = t.v_absmax[block];
  const uint8_t* m_codes = t.m_codes + block * kBlock;
  const uint8_t* v_codes = t.v_codes + block * kBlock;
  const float* g = t.g + block * kBlock;
  float* p = t.p + block * kBlock;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float m = signed_map[m_codes[i]] * absmax_m;
    const float v = unsigned_map[v_codes[i]] * absmax_v;
    const Moments moments = BnbMoments(s, g[i] * scale, m, v);
    const float stepped = BnbParameter(s, p[i], moments);
    const bool finite = IsFinite(g[i]);
    x->m[i] = finite ? moments.m : 0.0f;
    x->v[i] = finite ? moments.v : 0.0f;
    p[i] = finite ? stepped : p[i];
  }
}

void Step8bitBlock(const Adam8bitTensor& t, const AdamWScalars& s, float scale, int64_t block) {
  const float* signed_map = SignedDynamicMap().data();
  const float* unsigned_map = UnsignedDynamicMap().data();
  const int64_t count = std::min(kBlock, t.n - block * kBlock);
  Block x;
  UpdateBlock(t, s, scale, block, count, &x);
  float top_m = 0, top_v = 0;
#pragma omp simd reduction(max : top_m, top_v)
  for (int64_t i = 0; i < count; ++i) {
    top_m = std::max(top_m, std::fabs(x.m[i]));
    top_v = std::max(top_v, std::fabs(x.v[i]));
  }
  uint8_t* m_codes = t.m_codes + block * kBlock;
  uint8_t* v_codes = t.v_codes + block * kBlock;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    m_codes[i] = static_cast<uint8_t>(SignedCode(signed_map, x.m[i], top_m));
    v_codes[i] = static_cast<uint8_t>(UnsignedCode(unsigned_map, x.v[i], top_v));
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
