// A product that adds to a third matrix, which is read where it lies: the residual stream and what a linear adds to it.
// LibTorch's addmm copies that matrix into the result first. Legend: T rows, I inputs, O outputs.
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

// y = x W^T + addend. Rows of all four may lie further apart than their length. bfloat16 on CUDA: sums in float32, one
// rounding at the end, in an order that depends on shapes alone. y must not overlap the others.
// One dtype and device for all. Errors: c10::Error naming what is wrong.
void ProductAdd(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& addend_TO, at::Tensor& y_TO);

}  // namespace finetuned::kernels
