#include "engine/model/projection.h"

#include <ATen/ATen.h>

#include "engine/plan/generation.h"
#include "kernels/nf4_gemm.h"

namespace finetuned::model {

Projection::Projection(const PassContext& pass, const FrozenLinear& linear, int64_t layer,
                       lora::GroupKind kind, WeightPlace* place)
    : pass_(pass), linear_(linear), place_(*place) {
  if (pass.adapter == nullptr) return;
  group_ = &pass.adapter->group(layer, kind);
  ranks_ = group_->ranks();
  scaling_ = pass.adapter->options().scaling();
}

void Projection::Forward(const Extended& x_TI, at::Tensor y_TO, int64_t first_row) {
  const at::Tensor x = x_TI.main();
  at::Tensor u_TG = x_TI.low(ranks_);
  if (ranks_ > 0) {
    at::Tensor dropped = Dropped(x);
    lora::Down(*group_, x, Key(first_row), dropped, u_TG);
  }
  if (!y_TO.defined()) return;
  if (pass_.few_rows && kernels::Nf4GemmSupports(linear_.parts(), linear_.in())) {
    return ForwardStored(x, u_TG, y_TO);
  }
  if (Rides()) {
    at::mm_out(y_TO, x_TI.With(ranks_), Weight().narrow(0, 0, linear_.out()).t());
  } else {
    at::mm_out(y_TO, x, Weight().t());
  }
  if (linear_.bias_O().defined()) y_TO.add_(linear_.bias_O());
  if (ranks_ > 0 && !Rides()) lora::AddUp(*group_, scaling_, u_TG, y_TO);
}

void Projection::ForwardStored(const at::Tensor& x_TI, const at::Tensor& u_TG, at::Tensor& y_TO) {
  kernels::LowRankTerm low_rank;
  if (ranks_ > 0) low_rank = lora::LowRankTermOf(*group_, scaling_, u_TG);
  const int64_t splits = plan::StoredProductSplits(linear_.in(), linear_.out());
  at::Tensor scratch;
  if (x_TI.is_cuda()) {
    scratch = pass_.workspace->Take("nf4_partial", 0, {splits, x_TI.size(0), linear_.out()}, at::kFloat);
  }
  kernels::Nf4Gemm(linear_.parts(), x_TI, linear_.bias_O(), low_rank, splits, scratch, y_TO);
}

void Projection::Backward(const Extended& dy_TO, const Extended& x_TI, at::Tensor dx_TI, int64_t first_row) {
  const at::Tensor dy = dy_TO.main(), x = x_TI.main(), u_TG = x_TI.low(ranks_);
  at::Tensor du_TG = dy_TO.low(ranks_);
  if (Rides()) {
    const at::Tensor w = Weight();
    const int64_t in = linear_.in(), out = linear_.out();
    at::mm_out(du_TG, dy, w.narrow(0, 0, out).narrow(1, in, ranks_));
    if (dx_TI.defined()) at::mm_out(dx_TI, dy_TO.With(ranks_), w.narrow(1, 0, in));
    lora::AddGradients(*group_, scaling_, dy, du_TG, x, u_TG);
    return;
  }
  if (dx_TI.defined()) at::mm_out(dx_TI, dy, Weight());
  if (ranks_ == 0) return;
  at::Tensor dropped = Dropped(x);
  lora::AddBackward(*group_, scaling_, dy, x, u_TG, Key(first_row), dropped, du_TG, dx_TI);
}

at::Tensor Projection::Weight() {
  if (!linear_.quantized()) return linear_.Weight({});
  const int64_t border = Rides() ? ranks_ : 0;
  const bool there = place_.holds == this;
  at::Tensor w = there ? linear_.ExtendedView(place_.memory, border) : linear_.Extended(place_.memory, border);
  if (!there && border > 0) lora::ExtendWeight(*group_, scaling_, /*with_a=*/true, w);
  place_.holds = this;
  return w;
}

lora::DropoutKey Projection::Key(int64_t first_row) const {
  lora::DropoutKey key = pass_.dropout;
  key.first_row = first_row;
  return key;
}

at::Tensor Projection::Dropped(const at::Tensor& x_TI) const {
  if (pass_.dropout.p == 0) return {};
  return pass_.workspace->Take("lora_dropped", 0, x_TI.sizes(), x_TI.scalar_type());
}

}  // namespace finetuned::model
