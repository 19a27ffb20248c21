#include "engine/model/projection.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "engine/model/block_parts.h"
#include "engine/model/int8_product.h"
#include "engine/plan/generation.h"
#include "engine/plan/memory_plan.h"
#include "kernels/codes8.h"
#include "kernels/nf4_gemm.h"
#include "kernels/product_add.h"

namespace finetuned::model {
namespace {

// From so many rows on a standing weight, four times the bytes, is faster than its codes, which are decoded in every product.
constexpr int64_t kStandingRows = 32;

}  // namespace

Projection::Projection(const PassContext& pass, const FrozenLinear& linear, int64_t layer,
                       lora::GroupKind kind, WeightPlace* place)
    : pass_(pass), linear_(linear), place_(*place), codes_(CodesOf(pass.base->options.precision)),
      int8_(pass.base->options.int8_threshold > 0 && Int8ProductSupports(linear.int8(), linear.in())) {
  if (pass.adapter == nullptr) return;
  group_ = &pass.adapter->group(layer, kind);
  ranks_ = group_->ranks();
  scaling_ = group_->scaling;
}

bool Projection::ReadsStored(int64_t rows) const {
  if (!pass_.few_rows || (Stands() && rows >= kStandingRows && !pass_.deterministic)) return false;
  return kernels::Nf4GemmSupports(linear_.four_bit(), linear_.in());
}

bool Projection::AddsInProduct(int64_t rows) const { return !ReadsStored(rows) && !codes_ && !int8_ && !dora(); }

void Projection::WriteLow(const Extended& x_TI, int64_t first_row) {
  if (ranks_ == 0) return;
  const at::Tensor x = x_TI.main();
  at::Tensor dropped = Dropped(x), u_TG = x_TI.low(ranks_);
  lora::Down(*group_, x, Key(first_row), dropped, u_TG);
}

void Projection::ForwardAdd(const Extended& x_TI, const at::Tensor& addend_TO, at::Tensor y_TO, int64_t first_row) {
  if (!AddsInProduct(y_TO.size(0))) {
    Forward(x_TI, y_TO, first_row);
    y_TO.add_(addend_TO);
    return;
  }
  WriteLow(x_TI, first_row);
  if (Rides()) {
    kernels::ProductAdd(x_TI.With(ranks_), Weight().narrow(0, 0, linear_.out()), addend_TO, y_TO);
  } else {
    kernels::ProductAdd(x_TI.main(), Weight(), addend_TO, y_TO);
    if (ranks_ > 0) lora::AddUp(*group_, scaling_, x_TI.low(ranks_), y_TO);
  }
  AddBias(y_TO);
}

void Projection::Forward(const Extended& x_TI, at::Tensor y_TO, int64_t first_row) {
  const at::Tensor x = x_TI.main(), u_TG = x_TI.low(ranks_);
  WriteLow(x_TI, first_row);
  if (!y_TO.defined()) return;
  if (ReadsStored(y_TO.size(0))) return ForwardStored(x, u_TG, y_TO);
  if (Rides()) {
    at::mm_out(y_TO, x_TI.With(ranks_), Weight().narrow(0, 0, linear_.out()).t());
  } else {
    Multiply(x, /*transposed=*/false, y_TO);
  }
  if (drops_dora()) {
    at::Tensor z_TO = DroppedProduct(x, first_row);
    y_TO.sub_(z_TO);
    lora::AddUp(*group_, scaling_, u_TG, z_TO);
    y_TO.add_(z_TO.mul_(group_->gain_O));
  } else {
    if (ranks_ > 0 && !Rides()) lora::AddUp(*group_, scaling_, u_TG, y_TO);
    if (dora()) y_TO.mul_(group_->gain_O);
  }
  AddBias(y_TO);
}

void Projection::AddBias(at::Tensor& y_TO) const {
  if (!trains_bias()) {
    if (linear_.bias_O().defined()) y_TO.add_(linear_.bias_O());
    return;
  }
  for (const lora::BiasPart& bias : group_->biases) {
    const bool own = bias.compute_O.defined();
    y_TO.narrow(1, bias.first_column, bias.out)
        .add_(own ? bias.compute_O : linear_.bias_O().narrow(0, bias.first_column, bias.out));
  }
}

void Projection::AddBiasGradients(const at::Tensor& dy_TO) const {
  const at::Tensor sums_O = at::sum(dy_TO, {0}, /*keepdim=*/false, at::kFloat);
  for (const lora::BiasPart& bias : group_->biases) {
    if (!bias.gradient_O.defined()) continue;
    at::Tensor gradient = bias.gradient_O;
    gradient.add_(sums_O.narrow(0, bias.first_column, bias.out));
  }
}

void Projection::ForwardStored(const at::Tensor& x_TI, const at::Tensor& u_TG, at::Tensor& y_TO) {
  kernels::LowRankTerm low_rank;
  if (ranks_ > 0) low_rank = lora::LowRankTermOf(*group_, scaling_, u_TG);
  const int64_t splits = plan::StoredProductSplits(linear_.in(), linear_.out());
  at::Tensor scratch;
  if (x_TI.is_cuda()) {
    scratch = pass_.workspace->Take("nf4_partial", 0, {splits, x_TI.size(0), linear_.out()}, at::kFloat);
  }
  const bool bias_later = dora() || trains_bias();
  kernels::Nf4Gemm(linear_.four_bit(), x_TI, bias_later ? at::Tensor() : linear_.bias_O(), low_rank, splits, scratch, y_TO);
  if (dora()) y_TO.mul_(group_->gain_O);
  if (bias_later) AddBias(y_TO);
}

at::Tensor Projection::DroppedProduct(const at::Tensor& x_TI, int64_t first_row) {
  at::Tensor z_TO = pass_.workspace->Take("dora.gradient", 0, {x_TI.size(0), linear_.out()}, x_TI.scalar_type());
  z_TO.zero_();
  at::Tensor dropped = Dropped(x_TI);
  for (size_t i = 0; i < group_->sites.size(); ++i) {
    const lora::Site& site = group_->sites[i];
    lora::Drop(site, x_TI, Key(first_row), dropped);
    at::Tensor columns = z_TO.narrow(1, group_->first_column[i], site.out);
    at::mm_out(columns, dropped, Weight().narrow(0, group_->first_column[i], site.out).t());
  }
  return z_TO;
}

void Projection::AddDropped(const at::Tensor& gradient_TO, int64_t first_row, at::Tensor& dx_TI) {
  at::Tensor dropped = Dropped(dx_TI);
  for (size_t i = 0; i < group_->sites.size(); ++i) {
    const lora::Site& site = group_->sites[i];
    const int64_t column = group_->first_column[i];
    at::mm_out(dropped, gradient_TO.narrow(1, column, site.out), Weight().narrow(0, column, site.out));
    lora::Drop(site, dropped, Key(first_row), dropped);
    dx_TI.add_(dropped);
  }
}

// With z = d W^T + s u B^T (d: the input, with dropout if there is any) what depends on the gain is gain * z: adds the
// gradient of the magnitudes, sum(dy * z) / norm, and returns that of z. The product z is computed again: its buffer
// may hold something else by now.
at::Tensor Projection::BackwardGain(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TG,
                                    int64_t first_row) {
  at::Tensor z_TO;
  if (drops_dora()) {
    z_TO = DroppedProduct(x_TI, first_row);
  } else {
    z_TO = pass_.workspace->Take("dora.gradient", 0, dy_TO.sizes(), dy_TO.scalar_type());
    Multiply(x_TI, /*transposed=*/false, z_TO);
  }
  lora::AddUp(*group_, scaling_, u_TG, z_TO);
  z_TO.mul_(dy_TO);
  const at::Tensor sums_O = at::sum(z_TO, {0}, /*keepdim=*/false, at::kFloat);
  for (size_t i = 0; i < group_->sites.size(); ++i) {
    const lora::Site& site = group_->sites[i];
    at::Tensor gradient = site.dmagnitude_O;
    gradient.addcdiv_(sums_O.narrow(0, group_->first_column[i], site.out), site.norm_O);
  }
  at::mul_out(z_TO, dy_TO, group_->gain_O);
  return z_TO;
}

void Projection::Backward(const Extended& dy_TO, const Extended& x_TI, at::Tensor dx_TI, int64_t first_row) {
  const at::Tensor u_TG = x_TI.low(ranks_);
  if (trains_bias()) AddBiasGradients(dy_TO.main());
  const at::Tensor dy = dora() ? BackwardGain(dy_TO.main(), x_TI.main(), u_TG, first_row) : dy_TO.main();
  if (ranks_ > 0) {
    at::Tensor du_TG = dy_TO.low(ranks_);
    lora::UpBackward(*group_, scaling_, dy, u_TG, GradientSums(dy), du_TG);
  }
  BackwardInput(dy_TO, dy, x_TI, dx_TI, first_row);
}

void Projection::BackwardThroughGate(const at::Tensor& dh_TF, const Extended& gate_up_TO, const Extended& x_TI,
                                     at::Tensor dx_TI, int64_t first_row) {
  const format::ModelConfig& m = pass_.base->config;
  at::Tensor gate_up = gate_up_TO.main(), du_TG = gate_up_TO.low(ranks_);
  const at::Tensor sums = GateSums(dh_TF, gate_up_TO, x_TI);
  if (!sums.defined()) {
    GateBackward(m, dh_TF, gate_up, gate_up);
    return Backward(gate_up_TO, x_TI, dx_TI, first_row);
  }
  lora::GateUpBackward(*group_, scaling_, GateOf(m), dh_TF, x_TI.low(ranks_), sums, gate_up, du_TG);
  if (trains_bias()) AddBiasGradients(gate_up);
  BackwardInput(gate_up_TO, gate_up, x_TI, dx_TI, first_row);
}

void Projection::BackwardInput(const Extended& dy_TO, const at::Tensor& dy, const Extended& x_TI, at::Tensor dx_TI,
                               int64_t first_row) {
  const at::Tensor x = x_TI.main(), du_TG = dy_TO.low(ranks_);
  if (Rides()) {
    if (dx_TI.defined()) at::mm_out(dx_TI, dy_TO.With(ranks_), Weight().narrow(1, 0, linear_.in()));
    lora::AddDownGradients(*group_, du_TG, x);
    return;
  }
  if (dx_TI.defined()) Multiply(drops_dora() ? dy_TO.main() : dy, /*transposed=*/true, dx_TI);
  if (ranks_ == 0) return;
  at::Tensor dropped = Dropped(x);
  lora::DownBackward(*group_, du_TG, x, Key(first_row), dropped, dx_TI);
  // The frozen product has had dy: what is missing is (gain - 1) dy, by way of the masks.
  if (drops_dora() && dx_TI.defined()) AddDropped(dy.sub_(dy_TO.main()), first_row, dx_TI);
}

at::Tensor Projection::GradientSums(const at::Tensor& dy_TO) const {
  return TakeSums(lora::GradientSums(*group_, dy_TO));
}

at::Tensor Projection::GateSums(const at::Tensor& dh_TF, const Extended& gate_up_TO, const Extended& x_TI) const {
  if (ranks_ == 0 || dora()) return {};
  return TakeSums(lora::GateGradientSums(*group_, dh_TF, gate_up_TO.main(), x_TI.low(ranks_)));
}

at::Tensor Projection::TakeSums(int64_t elements) const {
  return elements > 0 ? pass_.workspace->Take("lora_gradients", 0, {elements}, at::kFloat) : at::Tensor();
}

void Projection::Multiply(const at::Tensor& x, bool transposed, at::Tensor& y) {
  if (codes_) return MultiplyCodes(x, transposed, y);
  if (int8_ && !transposed) return Int8Product(linear_.int8(), x, pass_.base->options.int8_threshold, *pass_.workspace, y);
  at::mm_out(y, x, transposed ? Weight() : Weight().t());
}

void Projection::MultiplyCodes(const at::Tensor& x, bool transposed, at::Tensor& y) {
  const int64_t rows = x.size(0), padded = kernels::Codes8Rows(rows), k = x.size(1), n = y.size(1);
  Workspace& w = *pass_.workspace;
  at::Tensor codes = w.Take("codes8.inputs", 0, {padded * k}, at::kByte).view(*codes_).view({padded, k}).narrow(0, 0, rows);
  at::Tensor scale = w.Take("codes8.scales", 0, {padded}, at::kFloat).narrow(0, 0, rows);
  at::Tensor sums;
  if (*codes_ == at::kChar) sums = w.Take("codes8.sums", 0, {std::min(plan::kCodes8SumRows, padded) * n}, at::kInt);
  kernels::QuantizeRows(x, codes, scale);
  kernels::MultiplyCodes(codes, scale, Codes(transposed), transposed ? linear_.scale_I() : linear_.scale_O(), sums, y);
}

at::Tensor Projection::Codes(bool transposed) {
  const int64_t in = linear_.in(), out = linear_.out(), n = in * out;
  at::Tensor codes = place_.memory.view(at::kByte).narrow(0, transposed ? n : 0, n).view(*codes_);
  codes = transposed ? codes.view({in, out}) : codes.view({out, in});
  if (place_.holds != &linear_) place_.codes = place_.transposed_codes = false;
  place_.holds = &linear_;
  bool& there = transposed ? place_.transposed_codes : place_.codes;
  if (!there) linear_.WriteCodes(transposed, codes);
  there = true;
  return codes;
}

at::Tensor Projection::Weight() {
  if (!linear_.quantized()) return linear_.Weight({});
  const int64_t border = place_.border >= 0 ? place_.border : Rides() ? ranks_ : 0;
  if (place_.holds != &linear_) {
    linear_.Extended(place_.memory, border);
    place_.holds = &linear_;
    place_.border_pass = -1;
  }
  at::Tensor w = linear_.ExtendedView(place_.memory, border);
  if (!Rides()) return w.narrow(0, 0, linear_.out()).narrow(1, 0, linear_.in());
  if (place_.border_pass != pass_.number) lora::ExtendWeight(*group_, scaling_, /*with_a=*/true, w);
  place_.border_pass = pass_.number;
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
