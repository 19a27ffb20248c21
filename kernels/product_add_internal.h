#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

// bfloat16 on CUDA, checked and not empty.
void ProductAddCublas(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& addend_TO, at::Tensor& y_TO);

}  // namespace finetuned::kernels
