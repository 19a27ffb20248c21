// Checks and dispatch; the bfloat16 CUDA path is LibTorch's flash attention; float32 on CUDA, for tests, and softcaps are
// composed of products and elementwise operations, some rows at a time.
#include "kernels/varlen_attention.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include "kernels/dispatch.h"
#include "kernels/varlen_attention_internal.h"

namespace finetuned::kernels {
namespace {

// A [T, heads, E] tensor whose token stride is free.
void CheckHeads(const char* op, const char* name, const at::Tensor& x, at::IntArrayRef shape,
                const at::Tensor& q) {
  TORCH_CHECK(x.defined() && x.sizes() == shape, op, ": ", name, " has shape ", x.sizes(),
              ", expected ", shape);
  TORCH_CHECK(x.scalar_type() == q.scalar_type() && x.device() == q.device(), op, ": ", name,
              " is ", x.scalar_type(), " on ", x.device(), ", q is ", q.scalar_type(), " on ",
              q.device());
  const int64_t heads = shape[1], E = shape[2];
  TORCH_CHECK(x.stride(2) == 1 && (heads == 1 || x.stride(1) == E) &&
                  (shape[0] <= 1 || x.stride(0) >= heads * E),
              op, ": ", name, " has strides ", x.strides(), ", expected [>= ", heads * E, ", ", E,
              ", 1]");
}

// cu rises from 0 to `rows`, by at most max_seqlen.
void CheckBounds(const char* op, const char* name, const at::Tensor& cu_seqlens, const std::vector<int32_t>& cu,
                 int64_t rows, int64_t max_seqlen, at::Device device) {
  CheckTensor(op, name, cu_seqlens, {static_cast<int64_t>(cu.size())}, at::kInt, device);
  TORCH_CHECK(!cu.empty() && cu.front() == 0 && cu.back() == rows && std::is_sorted(cu.begin(), cu.end()), op, ": ",
              name, " must rise from 0 to the ", rows, " rows");
  for (size_t n = 0; n + 1 < cu.size(); ++n) {
    TORCH_CHECK(cu[n + 1] - cu[n] <= max_seqlen, op, ": document ", n, " has ", cu[n + 1] - cu[n], " rows, ", name,
                " is said to have at most ", max_seqlen);
  }
}

void CheckInputs(const char* op, const VarlenAttentionInputs& in, const at::Tensor& cu_seqlens,
                 int64_t max_seqlen, const KeyDocuments* keys) {
  const at::Tensor& q = in.q_THE;
  DtypeOf(op, q);
  TORCH_CHECK(q.dim() == 3 && in.k_TKE.dim() == 3, op, ": q and k have shapes ", q.sizes(), ", ",
              in.k_TKE.sizes(), ", expected [T, heads, head size]");
  const int64_t T = q.size(0), H = q.size(1), K = in.k_TKE.size(1), E = q.size(2);
  TORCH_CHECK(K > 0 && H % K == 0, op, ": ", H, " query heads are not a multiple of ", K,
              " key/value heads");
  CheckHeads(op, "q", q, {T, H, E}, q);
  const std::vector<int32_t>&cu = in.cu_seqlens, &cu_k = in.cu_seqlens_k;
  CheckBounds(op, "cu_seqlens", cu_seqlens, cu, T, max_seqlen, q.device());
  const int64_t rows = keys == nullptr ? T : cu_k.back();
  CheckHeads(op, "k", in.k_TKE, {rows, K, E}, q);
  CheckHeads(op, "v", in.v_TKE, {rows, K, E}, q);
  if (keys == nullptr) return;
  TORCH_CHECK(cu_k.size() == cu.size(), op, ": keys has ", cu_k.size() - 1, " documents, q has ", cu.size() - 1);
  CheckBounds(op, "keys.cu_seqlens", keys->cu_seqlens, cu_k, rows, keys->max_seqlen, q.device());
  for (size_t n = 0; n + 1 < cu.size(); ++n) {
    TORCH_CHECK(cu_k[n + 1] - cu_k[n] >= cu[n + 1] - cu[n], op, ": document ", n, " has ", cu[n + 1] - cu[n],
                " queries and only ", cu_k[n + 1] - cu_k[n], " keys");
  }
}

// Puts result into out: by copy when the caller gave memory.
void Deliver(const at::Tensor& result, at::Tensor& out) {
  if (out.defined()) {
    out.copy_(result);
  } else {
    out = result;
  }
}

// Turns LibTorch's deterministic mode to a value for a scope; flash attention reads it.
class DeterministicScope {
 public:
  explicit DeterministicScope(bool on)
      : was_on_(at::globalContext().deterministicAlgorithms()),
        warn_only_(at::globalContext().deterministicAlgorithmsWarnOnly()),
        fill_(at::globalContext().deterministicFillUninitializedMemory()) {
    at::globalContext().setDeterministicAlgorithms(on, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~DeterministicScope() {
    at::globalContext().setDeterministicAlgorithms(was_on_, warn_only_);
    at::globalContext().setDeterministicFillUninitializedMemory(fill_);
  }
  DeterministicScope(const DeterministicScope&) = delete;
  DeterministicScope& operator=(const DeterministicScope&) = delete;

 private:
  const bool was_on_;
  const bool warn_only_;
  const bool fill_;
};

// Some rows of a document: everything as [heads, rows, ...], keys repeated per query head.
struct Rows {
  int64_t first, count;  // rows of q
  int64_t key, keys;     // rows of k that any of them sees
  at::Tensor q_HRE, k_HLE, v_HLE;
  at::Tensor scores_HRL;  // float32, what softmax takes; -infinity where a row does not see a key
  at::Tensor slope_HRL;   // with a softcap: derivative of the scores before it

  // Rows [first_row, first_row + rows) of document n.
  Rows(const VarlenAttentionInputs& in, size_t n, int64_t first_row, int64_t rows)
      : first(in.cu_seqlens[n] + first_row), count(rows) {
    const int64_t key_start = in.cu_seqlens_k[n], L = in.cu_seqlens[n + 1] - in.cu_seqlens[n];
    const int64_t position = in.cu_seqlens_k[n + 1] - key_start - L + first_row;  // of the first row among the keys
    const int64_t low = in.scores.First(position), end = position + rows;
    key = key_start + low;
    keys = end - low;
    const int64_t group = in.q_THE.size(1) / in.k_TKE.size(1);
    q_HRE = Of(in.q_THE, first, rows);
    k_HLE = Of(in.k_TKE, key, keys).repeat_interleave(group, 0);
    v_HLE = Of(in.v_TKE, key, keys).repeat_interleave(group, 0);
    scores_HRL = Product(q_HRE, k_HLE.transpose(1, 2)).mul_(in.scores.scale);
    if (in.scores.softcap > 0) {
      const at::Tensor capped = scores_HRL.div_(in.scores.softcap).tanh_();
      slope_HRL = capped.square().neg_().add_(1);
      scores_HRL = capped.mul_(in.scores.softcap);
    }
    const auto ints = at::TensorOptions().device(in.q_THE.device()).dtype(at::kLong);
    const at::Tensor row = at::arange(position, end, ints).unsqueeze(1), column = at::arange(low, end, ints).unsqueeze(0);
    at::Tensor hidden = column > row;
    if (in.scores.window > 0) hidden = hidden.logical_or(column <= row - in.scores.window);
    scores_HRL.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }

  static at::Tensor Of(const at::Tensor& x_THE, int64_t first, int64_t count) {
    return x_THE.narrow(0, first, count).transpose(0, 1);
  }
  // float32, also of bfloat16 factors.
  static at::Tensor Product(const at::Tensor& a, const at::Tensor& b) {
    return a.scalar_type() == at::kBFloat16 ? at::bmm(a, b, at::kFloat) : at::bmm(a, b);
  }
};

template <typename Body>
void ForEachRows(const VarlenAttentionInputs& in, const Body& body) {
  for (size_t n = 0; n + 1 < in.cu_seqlens.size(); ++n) {
    const int64_t L = in.cu_seqlens[n + 1] - in.cu_seqlens[n], S = in.cu_seqlens_k[n + 1] - in.cu_seqlens_k[n];
    const int64_t step = ComposedRows(in.q_THE.size(1), S);
    for (int64_t first = 0; first < L; first += step) body(Rows(in, n, first, std::min(step, L - first)));
  }
}

// Sum over the query heads of each key/value head.
at::Tensor SumGroups(const at::Tensor& x_HLE, int64_t K) {
  return x_HLE.view({K, -1, x_HLE.size(1), x_HLE.size(2)}).sum(1);
}

void ForwardComposed(const VarlenAttentionInputs& in, at::Tensor& out_THE, at::Tensor& lse_HT) {
  ForEachRows(in, [&](const Rows& r) {
    lse_HT.narrow(1, r.first, r.count).copy_(r.scores_HRL.logsumexp(2));
    const at::Tensor p = r.scores_HRL.softmax(2).to(in.v_TKE.scalar_type());
    Rows::Of(out_THE, r.first, r.count).copy_(at::bmm(p, r.v_HLE));
  });
}

void BackwardComposed(const VarlenAttentionInputs& in, const at::Tensor& dout_THE,
                      const at::Tensor& out_THE, const at::Tensor& lse_HT, at::Tensor& dq_THE,
                      at::Tensor& dk_TKE, at::Tensor& dv_TKE) {
  const int64_t K = in.k_TKE.size(1);
  const at::ScalarType dtype = in.q_THE.scalar_type();
  // Blocks of rows add to the same keys: in float32.
  at::Tensor dk = at::zeros(dk_TKE.sizes(), dk_TKE.options().dtype(at::kFloat)), dv = at::zeros_like(dk);
  ForEachRows(in, [&](const Rows& r) {
    const at::Tensor dout = Rows::Of(dout_THE, r.first, r.count), out = Rows::Of(out_THE, r.first, r.count);
    const at::Tensor delta = (dout.to(at::kFloat) * out.to(at::kFloat)).sum(2, true);
    const at::Tensor p = (r.scores_HRL - lse_HT.narrow(1, r.first, r.count).unsqueeze(2)).exp_();
    at::Tensor ds = Rows::Product(dout, r.v_HLE.transpose(1, 2)).sub_(delta).mul_(p).mul_(in.scores.scale);
    if (r.slope_HRL.defined()) ds.mul_(r.slope_HRL);
    const at::Tensor ds_t = ds.to(dtype), p_t = p.to(dtype);
    Rows::Of(dq_THE, r.first, r.count).copy_(at::bmm(ds_t, r.k_HLE));
    Rows::Of(dk, r.key, r.keys).add_(SumGroups(Rows::Product(ds_t.transpose(1, 2), r.q_HRE), K));
    Rows::Of(dv, r.key, r.keys).add_(SumGroups(Rows::Product(p_t.transpose(1, 2), dout), K));
  });
  dk_TKE.copy_(dk);
  dv_TKE.copy_(dv);
}

at::Tensor EmptyLike(const at::Tensor& x) { return at::empty(x.sizes(), x.options()); }

// Bounds as flash attention takes them; with more keys than queries its causal mask ends at the last of both. It treats
// a longest document of one token as decoding and rearranges the heads; two keeps it on the ordinary path.
struct FlashBounds {
  const at::Tensor &q, &k;
  int64_t longest_q, longest_k;
  FlashBounds(const at::Tensor& cu_seqlens, int64_t max_seqlen, const KeyDocuments* keys)
      : q(cu_seqlens),
        k(keys == nullptr ? cu_seqlens : keys->cu_seqlens),
        longest_q(std::max<int64_t>(max_seqlen, 2)),
        longest_k(std::max<int64_t>(keys == nullptr ? max_seqlen : keys->max_seqlen, 2)) {}
};

#ifdef FINETUNED_HAVE_CUDNN
// Its deterministic backward needs a workspace that grows with the square of the longest document.
bool UsesCudnn(const VarlenAttentionInputs& in, int64_t max_seqlen, bool deterministic, const KeyDocuments* keys) {
  return !deterministic && keys == nullptr && in.q_THE.numel() > 0 && CudnnAttentionFits(in, max_seqlen);
}
#endif

bool UsesFlash(const VarlenAttentionInputs& in) {
  return in.q_THE.is_cuda() && in.q_THE.scalar_type() == at::kBFloat16 && in.scores.softcap == 0 &&
         in.q_THE.numel() > 0;
}

// Keys to the left that a row sees beside its own; nothing: all.
std::optional<int64_t> LeftWindow(const ScoreOptions& scores) {
  return scores.window > 0 ? std::optional<int64_t>(scores.window - 1) : std::nullopt;
}
// Flash attention takes both sides or none; causality limits the right one anyway.
std::optional<int64_t> RightWindow(const ScoreOptions& scores) {
  return scores.window > 0 ? std::optional<int64_t>(0) : std::nullopt;
}

}  // namespace

void VarlenAttentionForward(const at::Tensor& q_THE, const at::Tensor& k_TKE,
                            const at::Tensor& v_TKE, const at::Tensor& cu_seqlens,
                            const std::vector<int32_t>& cu_seqlens_host, int64_t max_seqlen,
                            const ScoreOptions& scores, at::Tensor& out_THE, at::Tensor& lse_HT,
                            bool deterministic, const KeyDocuments* keys) {
  const char* op = "VarlenAttentionForward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const VarlenAttentionInputs in = {q_THE, k_TKE, v_TKE, cu_seqlens_host,
                                    keys == nullptr ? cu_seqlens_host : keys->cu_seqlens_host, scores};
  CheckInputs(op, in, cu_seqlens, max_seqlen, keys);
  const at::ScalarType stat = q_THE.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const std::vector<int64_t> lse_shape = {q_THE.size(1), q_THE.size(0)};
  if (out_THE.defined()) {
    CheckHeads(op, "out", out_THE, q_THE.sizes(), q_THE);
  }
  if (lse_HT.defined()) CheckTensor(op, "lse", lse_HT, lse_shape, stat, q_THE.device());
#ifdef FINETUNED_HAVE_CUDNN
  if (UsesCudnn(in, max_seqlen, deterministic, keys)) {
    if (!out_THE.defined()) out_THE = EmptyLike(q_THE);
    if (!lse_HT.defined()) lse_HT = at::empty(lse_shape, q_THE.options().dtype(stat));
    return CudnnAttentionForward(in, cu_seqlens, max_seqlen, out_THE, lse_HT);
  }
#endif
  if (UsesFlash(in)) {
    const FlashBounds b(cu_seqlens, max_seqlen, keys);
    const auto result = at::_flash_attention_forward(q_THE, k_TKE, v_TKE, b.q, b.k, b.longest_q, b.longest_k, 0.0,
                                                     /*is_causal=*/true, false, scores.scale, LeftWindow(scores),
                                                     RightWindow(scores));
    Deliver(std::get<0>(result), out_THE);
    Deliver(std::get<1>(result), lse_HT);
    return;
  }
  if (!out_THE.defined()) out_THE = EmptyLike(q_THE);
  if (!lse_HT.defined()) lse_HT = at::empty(lse_shape, q_THE.options().dtype(stat));
  if (q_THE.numel() == 0) return;
  q_THE.is_cuda() ? ForwardComposed(in, out_THE, lse_HT)
                  : VarlenAttentionForwardCpu(in, out_THE, lse_HT);
}

void VarlenAttentionBackward(const at::Tensor& dout_THE, const at::Tensor& q_THE,
                             const at::Tensor& k_TKE, const at::Tensor& v_TKE,
                             const at::Tensor& out_THE, const at::Tensor& lse_HT,
                             const at::Tensor& cu_seqlens,
                             const std::vector<int32_t>& cu_seqlens_host, int64_t max_seqlen,
                             const ScoreOptions& scores, at::Tensor& dq_THE, at::Tensor& dk_TKE,
                             at::Tensor& dv_TKE, bool deterministic, const KeyDocuments* keys) {
  const char* op = "VarlenAttentionBackward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const VarlenAttentionInputs in = {q_THE, k_TKE, v_TKE, cu_seqlens_host,
                                    keys == nullptr ? cu_seqlens_host : keys->cu_seqlens_host, scores};
  CheckInputs(op, in, cu_seqlens, max_seqlen, keys);
  const at::ScalarType stat = q_THE.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  CheckTensor(op, "dout", dout_THE, q_THE.sizes(), q_THE.scalar_type(), q_THE.device());
  CheckHeads(op, "out", out_THE, q_THE.sizes(), q_THE);
  CheckTensor(op, "lse", lse_HT, {q_THE.size(1), q_THE.size(0)}, stat, q_THE.device());
  if (dq_THE.defined()) CheckHeads(op, "dq", dq_THE, q_THE.sizes(), q_THE);
  if (dk_TKE.defined()) CheckHeads(op, "dk", dk_TKE, k_TKE.sizes(), q_THE);
  if (dv_TKE.defined()) CheckHeads(op, "dv", dv_TKE, v_TKE.sizes(), q_THE);
#ifdef FINETUNED_HAVE_CUDNN
  if (UsesCudnn(in, max_seqlen, deterministic, keys)) {
    if (!dq_THE.defined()) dq_THE = EmptyLike(q_THE);
    if (!dk_TKE.defined()) dk_TKE = EmptyLike(k_TKE);
    if (!dv_TKE.defined()) dv_TKE = EmptyLike(v_TKE);
    return CudnnAttentionBackward(in, cu_seqlens, max_seqlen, dout_THE, out_THE, lse_HT, dq_THE,
                                  dk_TKE, dv_TKE);
  }
#endif
  if (UsesFlash(in)) {
    const DeterministicScope scope(deterministic);
    // The two random number tensors are unused without dropout.
    const at::Tensor no_rng = at::empty({0}, q_THE.options().dtype(at::kLong));
    const FlashBounds b(cu_seqlens, max_seqlen, keys);
    const auto result = at::_flash_attention_backward(dout_THE, q_THE, k_TKE, v_TKE, out_THE, lse_HT, b.q, b.k,
                                                      b.longest_q, b.longest_k, 0.0, /*is_causal=*/true, no_rng,
                                                      no_rng, scores.scale, LeftWindow(scores), RightWindow(scores));
    Deliver(std::get<0>(result), dq_THE);
    Deliver(std::get<1>(result), dk_TKE);
    Deliver(std::get<2>(result), dv_TKE);
    return;
  }
  if (!dq_THE.defined()) dq_THE = EmptyLike(q_THE);
  if (!dk_TKE.defined()) dk_TKE = EmptyLike(k_TKE);
  if (!dv_TKE.defined()) dv_TKE = EmptyLike(v_TKE);
  if (q_THE.numel() == 0) return;
  if (q_THE.is_cuda()) {
    BackwardComposed(in, dout_THE, out_THE, lse_HT, dq_THE, dk_TKE, dv_TKE);
  } else {
    VarlenAttentionBackwardCpu(in, dout_THE, out_THE, lse_HT, dq_THE, dk_TKE, dv_TKE);
  }
}

}  // namespace finetuned::kernels
