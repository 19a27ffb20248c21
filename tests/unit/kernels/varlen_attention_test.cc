#include "kernels/varlen_attention.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

struct Case {
  int64_t H, K, E;
  std::vector<int32_t> cu;
};

struct Result {
  Tensor out, lse, dq, dk, dv;
};

int64_t Longest(const std::vector<int32_t>& cu) {
  int64_t longest = 0;
  for (size_t n = 0; n + 1 < cu.size(); ++n) {
    longest = std::max<int64_t>(longest, cu[n + 1] - cu[n]);
  }
  return longest;
}

Result Compute(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
               const std::vector<int32_t>& cu, double scale) {
  Result r;
  const Tensor cu_seqlens = at::tensor(cu, at::kInt);
  const int64_t longest = Longest(cu);
  r.out = Poisoned(q.sizes(), q.options());
  r.lse = Poisoned({q.size(1), q.size(0)}, q.options());
  r.dq = Poisoned(q.sizes(), q.options());
  r.dk = Poisoned(k.sizes(), q.options());
  r.dv = Poisoned(k.sizes(), q.options());
  VarlenAttentionForward(q, k, v, cu_seqlens, cu, longest, {scale}, r.out, r.lse);
  VarlenAttentionBackward(dout, q, k, v, r.out, r.lse, cu_seqlens, cu, longest, {scale}, r.dq, r.dk,
                          r.dv, true);
  return r;
}

TEST(VarlenAttention, EqualsAutograd) {
  const std::vector<Case> cases = {
      {1, 1, 8, {0, 1, 3}},
      {9, 3, 64, {0, 1, 129, 386, 640}},  // around the 128-row blocks
      {4, 4, 32, {0, 5, 5, 20}},          // an empty document
      {4, 1, 128, {0, 200}},
  };
  for (const Case& c : cases) {
    const int64_t T = c.cu.back();
    const Tensor q = Normal({T, c.H, c.E}, 1).requires_grad_();
    const Tensor k = Normal({T, c.K, c.E}, 2).requires_grad_();
    const Tensor v = Normal({T, c.K, c.E}, 3).requires_grad_();
    const Tensor dout = Normal({T, c.H, c.E}, 4);
    const double scale = 1.0 / std::sqrt(static_cast<double>(c.E));
    const Tensor out = AttentionOracle(q, k, v, c.cu, scale);
    out.backward(dout);
    for (at::ScalarType type : {at::kFloat, at::kDouble}) {
      const double tolerance = type == at::kFloat ? 3e-6 : 1e-12;
      const Result r = Compute(q.detach().to(type), k.detach().to(type), v.detach().to(type),
                               dout.to(type), c.cu, scale);
      EXPECT_LT(RelativeError(r.out, out), tolerance) << T << " " << type;
      EXPECT_LT(RelativeError(r.dq, q.grad()), tolerance) << T << " " << type;
      EXPECT_LT(RelativeError(r.dk, k.grad()), tolerance) << T << " " << type;
      EXPECT_LT(RelativeError(r.dv, v.grad()), tolerance) << T << " " << type;
      EXPECT_TRUE(r.lse.isfinite().all().item<bool>());
    }
  }
}

TEST(VarlenAttention, ReadsAndWritesSlicesOfFusedQkv) {
  const std::vector<int32_t> cu = {0, 17, 60};
  const Tensor qkv = Normal({60, 4 + 2 + 2, 16}, 1).to(at::kFloat);
  const Tensor q = qkv.narrow(1, 0, 4), k = qkv.narrow(1, 4, 2), v = qkv.narrow(1, 6, 2);
  const Tensor dout = Normal({60, 4, 16}, 2).to(at::kFloat);
  const Result r = Compute(q.contiguous(), k.contiguous(), v.contiguous(), dout, cu, 0.25);
  Tensor d_qkv = Poisoned({60, 8, 16}, at::kFloat), out, lse;
  const Tensor cu_seqlens = at::tensor(cu, at::kInt);
  VarlenAttentionForward(q, k, v, cu_seqlens, cu, 43, {0.25}, out, lse);
  Tensor dq = d_qkv.narrow(1, 0, 4), dk = d_qkv.narrow(1, 4, 2), dv = d_qkv.narrow(1, 6, 2);
  VarlenAttentionBackward(dout, q, k, v, out, lse, cu_seqlens, cu, 43, {0.25}, dq, dk, dv, false);
  EXPECT_LT(RelativeError(out, r.out), 1e-6);
  EXPECT_LT(RelativeError(d_qkv, at::cat({r.dq, r.dk, r.dv}, 1)), 1e-6);
}

// With a prefix in front of a document's queries they are the last of a longer one.
TEST(VarlenAttention, QueriesAfterAPrefixEqualTheEndOfWholeDocuments) {
  const std::vector<int32_t> whole = {0, 10, 210, 513, 513, 540}, own = {0, 10, 140, 141, 141, 168};
  const Case c = {6, 2, 16, whole};
  const Tensor q = Normal({540, c.H, c.E}, 1).requires_grad_(), k = Normal({540, c.K, c.E}, 2).requires_grad_();
  const Tensor v = Normal({540, c.K, c.E}, 3).requires_grad_();
  std::vector<Tensor> ends;
  for (size_t n = 0; n + 1 < own.size(); ++n) ends.push_back(at::arange(whole[n + 1] - (own[n + 1] - own[n]), whole[n + 1]));
  const Tensor rows = at::cat(ends);
  const Tensor out = AttentionOracle(q, k, v, whole, 0.25).index_select(0, rows), dout = Normal(out.sizes(), 4);
  out.backward(dout);
  const KeyDocuments keys = {at::tensor(whole, at::kInt), whole, 303};
  for (at::ScalarType type : {at::kFloat, at::kDouble}) {
    const double tolerance = type == at::kFloat ? 3e-6 : 1e-12;
    const auto as = [&](const Tensor& x) { return x.detach().to(type); };
    const Tensor own_q = as(q).index_select(0, rows), cu = at::tensor(own, at::kInt);
    Result r;
    VarlenAttentionForward(own_q, as(k), as(v), cu, own, 130, {0.25}, r.out, r.lse, false, &keys);
    VarlenAttentionBackward(as(dout), own_q, as(k), as(v), r.out, r.lse, cu, own, 130, {0.25}, r.dq, r.dk, r.dv, false,
                            &keys);
    EXPECT_LT(RelativeError(r.out, out), tolerance) << type;
    EXPECT_LT(RelativeError(r.dq, q.grad().index_select(0, rows)), tolerance) << type;
    EXPECT_LT(RelativeError(r.dk, k.grad()), tolerance) << type;
    EXPECT_LT(RelativeError(r.dv, v.grad()), tolerance) << type;
  }
}

TEST(VarlenAttention, RefusesFewerKeysThanQueries) {
  const Tensor q = at::zeros({8, 2, 16}), k = at::zeros({8, 2, 16});
  Tensor out, lse;
  const std::vector<int32_t> cu = {0, 5, 8}, short_keys = {0, 4, 8};
  const KeyDocuments keys = {at::tensor(short_keys, at::kInt), short_keys, 4};
  EXPECT_THROW(VarlenAttentionForward(q, k, k, at::tensor(cu, at::kInt), cu, 5, {1.0}, out, lse, false, &keys),
               c10::Error);
}

TEST(VarlenAttention, RepeatsBitForBit) {
  const std::vector<int32_t> cu = {0, 300, 310, 512};
  const auto x = [&](int64_t heads, uint64_t seed) {
    return Normal({512, heads, 64}, seed).to(at::kFloat);
  };
  const Tensor q = x(6, 1), k = x(2, 2), v = x(2, 3), dout = x(6, 4);
  const Result a = Compute(q, k, v, dout, cu, 0.125), b = Compute(q, k, v, dout, cu, 0.125);
  EXPECT_TRUE(SameBits(a.out, b.out) && SameBits(a.dq, b.dq));
  EXPECT_TRUE(SameBits(a.dk, b.dk) && SameBits(a.dv, b.dv));
}

TEST(VarlenAttention, RefusesWrongDocumentBounds) {
  const Tensor q = at::zeros({8, 2, 16});
  Tensor out, lse;
  const std::vector<int32_t> short_of_end = {0, 5};
  EXPECT_THROW(VarlenAttentionForward(q, q, q, at::tensor(short_of_end, at::kInt), short_of_end, 8,
                                      {1.0}, out, lse),
               c10::Error);
  const std::vector<int32_t> cu = {0, 8};
  EXPECT_THROW(VarlenAttentionForward(q, q, q, at::tensor(cu, at::kInt), cu, 7, {1.0}, out, lse),
               c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
