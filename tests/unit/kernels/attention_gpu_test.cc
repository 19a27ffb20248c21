#include <cmath>

#include "kernels/shared_rows.h"
#include "kernels/varlen_attention.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class AttentionGpu : public GpuTest {};

struct Case {
  int64_t H, K, E;
  std::vector<int32_t> cu;

  int64_t T() const { return cu.back(); }
  double Scale() const { return 1.0 / std::sqrt(static_cast<double>(E)); }
  int64_t Longest() const {
    int64_t longest = 0;
    for (size_t n = 0; n + 1 < cu.size(); ++n) {
      longest = std::max<int64_t>(longest, cu[n + 1] - cu[n]);
    }
    return longest;
  }
};

struct Tensors {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
};

// Forward and backward into the outputs that are defined; the others come back new.
void Compute(const Case& c, Tensors& t, bool deterministic = false) {
  const Tensor cu = at::tensor(c.cu, at::kInt).to(t.q.device());
  VarlenAttentionForward(t.q, t.k, t.v, cu, c.cu, c.Longest(), {c.Scale()}, t.out, t.lse,
                         deterministic);
  VarlenAttentionBackward(t.dout, t.q, t.k, t.v, t.out, t.lse, cu, c.cu, c.Longest(), {c.Scale()},
                          t.dq, t.dk, t.dv, deterministic);
}

void Check(const Case& c, at::ScalarType type) {
  const std::string what = "attention T=" + std::to_string(c.T()) + " H=" + std::to_string(c.H) +
                           " E=" + std::to_string(c.E);
  const Input q = FreshInput({c.T(), c.H, c.E}, type), k = FreshInput({c.T(), c.K, c.E}, type);
  const Input v = FreshInput({c.T(), c.K, c.E}, type), dout = FreshInput({c.T(), c.H, c.E}, type);
  Tensors truth = {q.truth, k.truth, v.truth, dout.truth};
  Compute(c, truth);
  Tensor pq = q.gpu.clone().requires_grad_(), pk = k.gpu.clone().requires_grad_();
  Tensor pv = v.gpu.clone().requires_grad_();
  const Tensor plain = AttentionOracle(pq, pk, pv, c.cu, c.Scale());
  plain.backward(dout.gpu);
  Tensors ours = {q.gpu, k.gpu, v.gpu, dout.gpu};
  Compute(c, ours);
  Tensors copied = {q.gpu,
                    k.gpu,
                    v.gpu,
                    dout.gpu,
                    Poisoned(q.gpu.sizes(), OnGpu(type)),
                    Poisoned({c.H, c.T()}, OnGpu(at::kFloat)),
                    Poisoned(q.gpu.sizes(), OnGpu(type)),
                    Poisoned(k.gpu.sizes(), OnGpu(type)),
                    Poisoned(k.gpu.sizes(), OnGpu(type))};
  Compute(c, copied, true);
  for (const Tensors* t : {&ours, &copied}) {
    ExpectWithin(what + " out", t->out, plain, truth.out, Floor(type));
    ExpectWithin(what + " dq", t->dq, pq.grad(), truth.dq, Floor(type));
    ExpectWithin(what + " dk", t->dk, pk.grad(), truth.dk, Floor(type));
    ExpectWithin(what + " dv", t->dv, pv.grad(), truth.dv, Floor(type));
    // Statistics of long documents may be cuDNN's own.
    if (c.Longest() < 1024) {
      EXPECT_LT(RelativeError(t->lse, truth.lse), 1e-4) << what;
    }
  }
}

TEST_F(AttentionGpu, EqualsTheTruth) {
  for (at::ScalarType type : kGpuTypes) {
    // Many short documents: the bound compares two maxima, which one pair of rows decides by luck.
    std::vector<int32_t> pairs;
    for (int32_t at = 0; at <= 128; at += 2) pairs.push_back(at);
    Check({4, 4, 64, pairs}, type);
    Check({9, 3, 64, {0, 1, 129, 386, 1157}}, type);
    Check({8, 2, 128, {0, 257, 600}}, type);
    Check({4, 4, 32, {0, 5, 5, 20}}, type);  // an empty document
    Check({4, 1, 256, {0, 200}}, type);
    Check({8, 2, 128, {0, 1500}}, type);  // long ones: cuDNN
    Check({9, 3, 64, {0, 1100, 1612, 2636}}, type);
    Check({4, 4, 128, {0, 3, 2051, 2051, 3100}}, type);
  }
}

TEST_F(AttentionGpu, ReadsSlicesOfFusedQkvAndWritesSlices) {
  for (const Case& c : {Case{9, 3, 64, {0, 100, 257}}, Case{9, 3, 64, {0, 1100, 1300}}}) {
    const int64_t T = c.T();
    const Tensor qkv = FreshInput({T, 15, 64}, at::kBFloat16).gpu;
    Tensor d_qkv = Poisoned({T, 15, 64}, OnGpu(at::kBFloat16));
    const Tensor wide = Poisoned({T, 9 * 64 + 8}, OnGpu(at::kBFloat16));
    const Tensor out = wide.narrow(1, 0, 9 * 64).unflatten(1, {9, 64});
    const auto part = [](const Tensor& x, int64_t i) {
      return i == 0 ? x.narrow(1, 0, 9) : x.narrow(1, 6 + 3 * i, 3);
    };
    Tensors whole = {part(qkv, 0).contiguous(), part(qkv, 1).contiguous(), part(qkv, 2).contiguous(),
                     FreshInput({T, 9, 64}, at::kBFloat16).gpu};
    Tensors slices = {part(qkv, 0), part(qkv, 1),   part(qkv, 2),   whole.dout,    out,
                      {},           part(d_qkv, 0), part(d_qkv, 1), part(d_qkv, 2)};
    const bool deterministic = c.Longest() < 1024;  // cuDNN, for the long ones, is not
    Compute(c, whole, deterministic);
    Compute(c, slices, deterministic);
    EXPECT_TRUE(SameBits(whole.out, slices.out.contiguous()));
    const Tensor gradient = at::cat({whole.dq, whole.dk, whole.dv}, 1);
    EXPECT_TRUE(!deterministic || SameBits(gradient, d_qkv));
    EXPECT_LT(RelativeError(d_qkv, gradient.to(at::kDouble)), 1.0 / 64);
  }
}

TEST_F(AttentionGpu, DocumentsOfOneTokenCopyTheirValue) {
  const Case c = {4, 2, 64, {0, 1, 2, 3}};
  const auto x = [](int64_t heads) { return FreshInput({3, heads, 64}, at::kBFloat16).gpu; };
  Tensors t = {x(4), x(2), x(2), x(4)};
  Compute(c, t);
  EXPECT_EQ(t.lse.sizes(), at::IntArrayRef({4, 3}));
  EXPECT_TRUE(SameBits(t.out, t.v.repeat_interleave(2, 1)));
  const Tensor dv = t.dout.to(at::kFloat).view({3, 2, 2, 64}).sum(2);
  EXPECT_LT(RelativeError(t.dv, dv), 1.0 / 128);
  EXPECT_LT(t.dq.abs().max().item<double>(), 0.05);
  EXPECT_LT(t.dk.abs().max().item<double>(), 0.05);
}

// Whole documents, and the same with the queries of all but the first behind a prefix that is copied for them.
TEST_F(AttentionGpu, SharedPrefixEqualsTheTruth) {
  const std::vector<int32_t> own = {0, 700, 760, 761, 900}, with_prefix = {0, 700, 1160, 1561, 2100};
  const int64_t H = 8, K = 2, E = 64, prefix = 400, T = own.back(), G = with_prefix.back();
  std::vector<int32_t> rows, offsets = {0}, copies;
  std::vector<std::vector<int32_t>> of_row(T);
  for (size_t n = 0; n + 1 < own.size(); ++n) {
    for (int32_t i = 0; n > 0 && i < prefix; ++i) rows.push_back(i);
    for (int32_t t = own[n]; t < own[n + 1]; ++t) rows.push_back(t);
  }
  ASSERT_EQ(rows.size(), G);
  for (int32_t g = 0; g < G; ++g) of_row[rows[g]].push_back(g);
  for (const auto& copies_of_row : of_row) {
    copies.insert(copies.end(), copies_of_row.begin(), copies_of_row.end());
    offsets.push_back(static_cast<int32_t>(copies.size()));
  }
  for (at::ScalarType type : kGpuTypes) {
    const Input q = FreshInput({T, H, E}, type), kv = FreshInput({T, 2 * K * E}, type), dout = FreshInput({T, H, E}, type);
    const auto run = [&](const Tensor& q_THE, const Tensor& kv_TC, const Tensor& dout_THE, bool deterministic) {
      const auto index = [&](const std::vector<int32_t>& x) { return at::tensor(x, at::kInt).to(q_THE.device()); };
      const KeyDocuments keys = {index(with_prefix), with_prefix, 700};
      Tensor keys_GC = at::empty({G, 2 * K * E}, kv_TC.options()), d_kv = Poisoned(kv_TC.sizes(), kv_TC.options());
      CopySharedRows(kv_TC, index(rows), keys_GC);
      const Tensor k = keys_GC.narrow(1, 0, K * E).unflatten(1, {K, E}), v = keys_GC.narrow(1, K * E, K * E).unflatten(1, {K, E});
      Tensor out, lse, dq, dk, dv;
      const Tensor cu = index(own);
      VarlenAttentionForward(q_THE, k, v, cu, own, 700, {0.125}, out, lse, deterministic, &keys);
      VarlenAttentionBackward(dout_THE, q_THE, k, v, out, lse, cu, own, 700, {0.125}, dq, dk, dv, deterministic, &keys);
      for (int i = 0; i < 2; ++i) {
        Tensor part = d_kv.narrow(1, i * K * E, K * E);
        SumSharedRows((i == 0 ? dk : dv).flatten(1), index(offsets), index(copies), part);
      }
      return std::vector<Tensor>{out, dq, d_kv};
    };
    const auto truth = run(q.truth, kv.truth, dout.truth, false);
    // What plain attention of this type loses: the composed float32 reference, rounded.
    const auto plain = run(q.gpu.to(at::kFloat), kv.gpu.to(at::kFloat), dout.gpu.to(at::kFloat), false);
    for (bool deterministic : {false, true}) {
      const auto ours = run(q.gpu, kv.gpu, dout.gpu, deterministic), again = run(q.gpu, kv.gpu, dout.gpu, deterministic);
      const char* names[] = {"out", "dq", "dk and dv"};
      for (int i = 0; i < 3; ++i) {
        // Probabilities and their gradients are rounded to bfloat16 on the way: some steps of the result.
        const double floor = type == at::kBFloat16 ? 1.0 / 64 : 1e-5;
        ExpectWithin(names[i], ours[i], plain[i], truth[i], floor);
        EXPECT_TRUE(!deterministic || SameBits(ours[i], again[i])) << names[i];
      }
    }
  }
}

TEST_F(AttentionGpu, DeterministicBackwardRepeatsBitForBit) {
  const Case c = {9, 3, 64, {0, 700, 1500, 2048}};
  Tensors a = {
      FreshInput({2048, 9, 64}, at::kBFloat16).gpu, FreshInput({2048, 3, 64}, at::kBFloat16).gpu,
      FreshInput({2048, 3, 64}, at::kBFloat16).gpu, FreshInput({2048, 9, 64}, at::kBFloat16).gpu};
  Compute(c, a, true);
  for (int i = 0; i < 5; ++i) {
    Tensors b = {a.q, a.k, a.v, a.dout};
    Compute(c, b, true);
    EXPECT_TRUE(SameBits(a.out, b.out) && SameBits(a.dq, b.dq)) << i;
    EXPECT_TRUE(SameBits(a.dk, b.dk) && SameBits(a.dv, b.dv)) << i;
  }
}

}  // namespace
}  // namespace finetuned::kernels
