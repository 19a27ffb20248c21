// Optimizers and gradient norm on the GPU.
#include "kernels/adamw.h"
#include "kernels/finite.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class AdamWGpu : public GpuTest {};

constexpr int kSteps = 5;

// Sizes around block limits, then more tensors than one launch takes; every fifth is misaligned on
// the GPU.
std::vector<int64_t> Sizes() {
  std::vector<int64_t> sizes = {1, 255, 256, 257, 2047, 2048, 2049, 4096, 70001, 576 * 16};
  for (int i = 0; i < 700; ++i) sizes.push_back(1 + i * 7 % 600);
  return sizes;
}

std::vector<Tensor> FreshList(const std::vector<int64_t>& sizes) {
  std::vector<Tensor> list;
  for (int64_t n : sizes) list.push_back(Normal({n}, FreshSeed()).to(at::kFloat));
  return list;
}

std::vector<Tensor> ZerosLike(const std::vector<Tensor>& list) {
  std::vector<Tensor> zeros;
  for (const Tensor& x : list) zeros.push_back(at::zeros_like(x));
  return zeros;
}

std::vector<Tensor> ListOnGpu(const std::vector<Tensor>& list) {
  std::vector<Tensor> gpu;
  for (const Tensor& x : list) {
    gpu.push_back(gpu.size() % 5 == 4 ? Misaligned(x.cuda()) : x.cuda());
  }
  return gpu;
}

void ExpectSameList(const char* what, const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(SameBits(a[i], b[i])) << what << " " << i << " of " << a[i].numel()
                                      << " elements, error " << RelativeError(b[i], a[i]);
  }
}

using Step32 = void (*)(std::vector<Tensor>&, const std::vector<Tensor>&, std::vector<Tensor>&,
                        std::vector<Tensor>&, const AdamWOptions&, const Tensor&, const Tensor&);

void Check32(Step32 step) {
  std::vector<Tensor> p = FreshList(Sizes()), m = ZerosLike(p), v = m;
  v = ZerosLike(p);
  std::vector<Tensor> gp = ListOnGpu(p), gm = ListOnGpu(m), gv = ListOnGpu(v);
  AdamWOptions o = {.lr = 1e-2, .beta2 = 0.99, .weight_decay = 0.1};
  const Tensor scale = at::full({1}, 0.7f), go = at::zeros({1});
  for (o.step = 1; o.step <= kSteps; ++o.step) {
    const std::vector<Tensor> g = FreshList(Sizes());
    step(p, g, m, v, o, scale, go);
    step(gp, ListOnGpu(g), gm, gv, o, scale.cuda(), go.cuda());
  }
  ExpectSameList("parameter", p, gp);
  ExpectSameList("m", m, gm);
  ExpectSameList("v", v, gv);
  step(gp, gp, gm, gv, o, {}, at::ones({1}).cuda());
  ExpectSameList("skipped parameter", p, gp);
}

TEST_F(AdamWGpu, BitsEqualTheCpu) { Check32(AdamWStep); }
TEST_F(AdamWGpu, BnbFloat32BitsEqualTheCpu) { Check32(AdamW32BnbStep); }

TEST_F(AdamWGpu, Bnb8bitBitsEqualTheCpu) {
  std::vector<Tensor> p = FreshList(Sizes());
  std::vector<Tensor> gp = ListOnGpu(p);
  std::vector<Adam8bitState> states, gpu_states;
  for (size_t i = 0; i < p.size(); ++i) {
    states.push_back(NewAdam8bitState(p[i]));
    gpu_states.push_back(NewAdam8bitState(gp[i]));
  }
  AdamWOptions o = {.lr = 1e-2, .beta2 = 0.99, .weight_decay = 0.1};
  const Tensor scale = at::full({1}, 0.7f), go = at::zeros({1});
  for (o.step = 1; o.step <= kSteps; ++o.step) {
    std::vector<Tensor> g = FreshList(Sizes());
    g[8].narrow(0, 512, 256).zero_();
    g[8][5] = std::numeric_limits<float>::quiet_NaN();
    AdamW8bitStep(p, g, states, o, scale, go);
    AdamW8bitStep(gp, ListOnGpu(g), gpu_states, o, scale.cuda(), go.cuda());
  }
  ExpectSameList("parameter", p, gp);
  for (size_t i = 0; i < p.size(); ++i) {
    ASSERT_TRUE(SameBits(states[i].m_codes, gpu_states[i].m_codes)) << i;
    ASSERT_TRUE(SameBits(states[i].v_codes, gpu_states[i].v_codes)) << i;
    ASSERT_TRUE(SameBits(states[i].m_absmax, gpu_states[i].m_absmax)) << i;
    ASSERT_TRUE(SameBits(states[i].v_absmax, gpu_states[i].v_absmax)) << i;
  }
  AdamW8bitStep(gp, gp, gpu_states, o, {}, at::ones({1}).cuda());
  ExpectSameList("skipped parameter", p, gp);
}

struct NormResult {
  Tensor norm, scale, skip;
};

NormResult Norm(const std::vector<Tensor>& grads, double max_norm, at::Device device) {
  const at::TensorOptions on = at::dtype(at::kFloat).device(device);
  NormResult r = {Poisoned({1}, on), Poisoned({1}, on), Poisoned({1}, on)};
  GradNormAndScale(grads, max_norm, r.norm, r.scale, r.skip);
  return r;
}

TEST_F(AdamWGpu, GradNormEqualsTheCpuAndRepeats) {
  std::vector<int64_t> sizes = Sizes();
  for (int i = 0; i < 800; ++i) sizes.push_back(3);
  std::vector<Tensor> g = FreshList(sizes);
  std::vector<Tensor> gpu = ListOnGpu(g);
  for (double max_norm : {0.0, 1.0, 1e9}) {
    const NormResult truth = Norm(g, max_norm, at::kCPU);
    const NormResult a = Norm(gpu, max_norm, gpu[0].device());
    const NormResult b = Norm(gpu, max_norm, gpu[0].device());
    EXPECT_LT(RelativeError(a.norm, truth.norm), 1e-6);
    EXPECT_LT(RelativeError(a.scale, truth.scale), 1e-6);
    EXPECT_EQ(a.skip.item<float>(), 0.0f);
    EXPECT_TRUE(SameBits(a.norm, b.norm));
  }
  gpu[8][70000] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Norm(gpu, 1, gpu[0].device()).skip.item<float>(), 1.0f);
  gpu[8][70000] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Norm(gpu, 1, gpu[0].device()).skip.item<float>(), 1.0f);
  EXPECT_EQ(Norm({}, 1, gpu[0].device()).norm.item<float>(), 0.0f);
}

}  // namespace
}  // namespace finetuned::kernels
