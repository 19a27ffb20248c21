// One fused linear of a layer with its adapters. Buffers that it reads have spare columns behind them: u = x A^T
// behind the input, du behind the output's gradient. Legend: T rows, I inputs, O outputs, G sum of the ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/lora/adapter.h"
#include "engine/model/frozen_linear.h"
#include "engine/model/pass.h"

namespace finetuned::model {

class Projection;

// Memory for one dequantized weight at a time.
struct WeightPlace {
  at::Tensor memory;
  const Projection* holds = nullptr;
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

  // Adds to the gradients of the adapters. dx_TI undefined: only these.
  void Backward(const Extended& dy_TO, const Extended& x_TI, at::Tensor dx_TI, int64_t first_row);

 private:
  // The adapters ride on the frozen product: one matrix holds W, A and B.
  bool Rides() const { return ranks_ > 0 && linear_.quantized() && pass_.dropout.p == 0; }
  // The weight stays as it is stored.
  void ForwardStored(const at::Tensor& x_TI, const at::Tensor& u_TG, at::Tensor& y_TO);
  // Rides(): [O + G, I + G]. Otherwise [O, I].
  at::Tensor Weight();
  lora::DropoutKey Key(int64_t first_row) const;
  at::Tensor Dropped(const at::Tensor& x_TI) const;

  const PassContext& pass_;
  const FrozenLinear& linear_;
  WeightPlace& place_;
  const lora::Group* group_ = nullptr;
  int64_t ranks_ = 0;
  double scaling_ = 0;
};

}  // namespace finetuned::model
