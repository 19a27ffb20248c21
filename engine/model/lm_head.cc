#include "engine/model/lm_head.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace finetuned::model {
namespace {

void FloatProduct(const at::Tensor& a, const at::Tensor& b, at::Tensor& out) {
  if (a.scalar_type() == at::kFloat) {
    at::mm_out(out, a, b);
  } else {
    at::mm_out(out, a, b, at::kFloat);
  }
}

void AddFloatProduct(const at::Tensor& a, const at::Tensor& b, at::Tensor& sum) {
  if (a.scalar_type() == at::kFloat) {
    sum.addmm_(a, b);
  } else {
    at::addmm_out(sum, sum, a, b, at::kFloat, /*beta=*/1, /*alpha=*/1);
  }
}

// Calls body(first, weight of these rows) until all of the vocabulary was seen.
template <typename Body>
void ForEachPart(const LmHead& head, const Body& body) {
  if (head.stored == nullptr) return body(0, head.dense_VD);
  const FrozenLinear& w = *head.stored;
  int64_t most = std::min(w.out(), head.scratch.numel() / w.in());
  if (most < w.out()) most -= most % w.RowStep();
  TORCH_CHECK(most > 0, "lm_head: the scratch holds ", head.scratch.numel(), " elements, too few for ", w.RowStep(),
              " rows of ", w.in());
  for (int64_t first = 0; first < w.out(); first += most) {
    body(first, w.Rows(first, std::min(most, w.out() - first), head.scratch));
  }
}

}  // namespace

void HeadLogits(const LmHead& head, const at::Tensor& rows_CD, at::Tensor& logits_CV) {
  ForEachPart(head, [&](int64_t first, const at::Tensor& weight_PD) {
    at::Tensor logits_CP = logits_CV.narrow(1, first, weight_PD.size(0));
    FloatProduct(rows_CD, weight_PD.t(), logits_CP);
  });
}

void CapLogits(double cap, at::Tensor& logits_CV) {
  if (cap > 0) logits_CV.div_(cap).tanh_().mul_(cap);
}

void HeadGradient(const LmHead& head, const at::Tensor& dlogits_CV, Workspace& workspace, at::Tensor& d_rows_CD) {
  if (head.stored == nullptr) {
    at::mm_out(d_rows_CD, dlogits_CV, head.dense_VD);
    return;
  }
  const bool narrow = d_rows_CD.scalar_type() != at::kFloat;
  at::Tensor sum_CD = narrow ? workspace.Take("loss.hidden_sum", 0, d_rows_CD.sizes(), at::kFloat) : d_rows_CD;
  ForEachPart(head, [&](int64_t first, const at::Tensor& weight_PD) {
    const at::Tensor dlogits_CP = dlogits_CV.narrow(1, first, weight_PD.size(0));
    first == 0 ? FloatProduct(dlogits_CP, weight_PD, sum_CD) : AddFloatProduct(dlogits_CP, weight_PD, sum_CD);
  });
  if (narrow) d_rows_CD.copy_(sum_CD);
}

}  // namespace finetuned::model
