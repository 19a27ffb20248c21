// One fused linear of a layer with its adapters. Buffers that it reads have spare columns behind them: u = x A^T
// behind the input, du behind the output's gradient. Legend: T rows, I inputs, O outputs, G sum of the ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/lora/adapter.h"
#include "engine/model/frozen_linear.h"
#include "engine/model/pass.h"

namespace finetuned::model {

// Memory for one dequantized weight at a time.
struct WeightPlace {
  at::Tensor memory;
  int64_t border = -1;  // rows and columns left for adapters; -1: what the projection needs
  const FrozenLinear* holds = nullptr;
  int64_t border_pass = -1;  // the pass whose adapters lie there
  bool codes = false, transposed_codes = false;  // which 8-bit codes lie there
};

// Of the four fused linears of a layer, in the order of lora::GroupKind.
using LayerPlaces = std::array<WeightPlace, lora::kGroups>;

struct StandingWeights {
  std::vector<LayerPlaces> layers;  // the first ones of the model
};

class Projection {
 public:
  // `place` and all of `pass` must outlive the projection. Projections may share a place: each dequantizes its
  // weight when another's lies there.
  Projection(const PassContext& pass, const FrozenLinear& linear, int64_t layer, lora::GroupKind kind,
             WeightPlace* place);
  Projection(const Projection&) = delete;
  Projection& operator=(const Projection&) = delete;

  int64_t ranks() const { return ranks_; }

  // Row 0 of x and y is row `first_row` of the batch. y_TO undefined: only u, which the backward reads.
  void Forward(const Extended& x_TI, at::Tensor y_TO, int64_t first_row);
  // y = addend + what Forward gives, where AddsInProduct() in one product. y may not be the addend.
  void ForwardAdd(const Extended& x_TI, const at::Tensor& addend_TO, at::Tensor y_TO, int64_t first_row);
  bool AddsInProduct(int64_t rows) const;

  // Adds to the gradients of the adapters. dx_TI undefined: only these.
  void Backward(const Extended& dy_TO, const Extended& x_TI, at::Tensor dx_TI, int64_t first_row);
  // Of gate and up, from the gradient of what the MLP's gate made of them: gate_up_TO becomes its own gradient.
  void BackwardThroughGate(const at::Tensor& dh_TF, const Extended& gate_up_TO, const Extended& x_TI, at::Tensor dx_TI,
                           int64_t first_row);

 private:
  // The adapters ride on the frozen product: one matrix holds W, A and B.
  bool Rides() const { return ranks_ > 0 && linear_.quantized() && pass_.dropout.p == 0 && !codes_ && !int8_ && !dora(); }
  bool dora() const { return group_ != nullptr && group_->gain_O.defined(); }
  // DoRA with dropout is PEFT's: y = x W^T + (gain - 1) d W^T + gain s (d A^T) B^T, d = dropout(x), by sites.
  bool drops_dora() const { return dora() && pass_.dropout.p > 0; }
  // z = d W^T, and in it s u B^T; 0 in columns without an adapter. Takes dora.gradient.
  at::Tensor DroppedProduct(const at::Tensor& x_TI, int64_t first_row);
  // What follows du and dB: dx and dA. dy: dy_TO, with DoRA its gradient behind the gain.
  void BackwardInput(const Extended& dy_TO, const at::Tensor& dy, const Extended& x_TI, at::Tensor dx_TI, int64_t first_row);
  // dx += dropout'(gradient W) by sites.
  void AddDropped(const at::Tensor& gradient_TO, int64_t first_row, at::Tensor& dx_TI);
  at::Tensor BackwardGain(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TG, int64_t first_row);
  // The base's bias, or the adapter's where it trains one.
  void AddBias(at::Tensor& y_TO) const;
  void AddBiasGradients(const at::Tensor& dy_TO) const;
  bool trains_bias() const { return group_ != nullptr && !group_->biases.empty(); }
  // The memory at hand holds this weight for good.
  bool Stands() const { return place_.border >= 0 && !codes_; }
  // Whether so few rows are multiplied with the weight as it is stored.
  bool ReadsStored(int64_t rows) const;
  // u of x, where there are adapters.
  void WriteLow(const Extended& x_TI, int64_t first_row);
  // The weight stays as it is stored.
  void ForwardStored(const at::Tensor& x_TI, const at::Tensor& u_TG, at::Tensor& y_TO);
  // y = x W^T, transposed: x W.
  void Multiply(const at::Tensor& x, bool transposed, at::Tensor& y);
  void MultiplyCodes(const at::Tensor& x, bool transposed, at::Tensor& y);
  // The weight in 8-bit codes, [O, I], transposed [I, O].
  at::Tensor Codes(bool transposed);
  // Rides(): [O + G, I + G]. Otherwise [O, I].
  at::Tensor Weight();
  at::Tensor GradientSums(const at::Tensor& dy_TO) const;
  // Undefined: the gate has a backward of its own.
  at::Tensor GateSums(const at::Tensor& dh_TF, const Extended& gate_up_TO, const Extended& x_TI) const;
  at::Tensor TakeSums(int64_t elements) const;
  lora::DropoutKey Key(int64_t first_row) const;
  at::Tensor Dropped(const at::Tensor& x_TI) const;

  const PassContext& pass_;
  const FrozenLinear& linear_;
  WeightPlace& place_;
  const std::optional<at::ScalarType> codes_;  // type of 8-bit codes that the frozen product takes
  const bool int8_;  // the forward product takes INT8 inputs
  const lora::Group* group_ = nullptr;
  int64_t ranks_ = 0;
  double scaling_ = 0;
};

}  // namespace finetuned::model
