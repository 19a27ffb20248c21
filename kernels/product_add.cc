#include "kernels/product_add.h"

#include <ATen/ATen.h>

#include "kernels/dispatch.h"
#include "kernels/product_add_internal.h"

namespace finetuned::kernels {

void ProductAdd(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& addend_TO, at::Tensor& y_TO) {
  const char* op = "ProductAdd";
  TORCH_CHECK(x_TI.dim() == 2 && w_OI.dim() == 2, op, ": x has shape ", x_TI.sizes(), " and w ", w_OI.sizes(),
              ", expected [T, I] and [O, I]");
  const int64_t T = x_TI.size(0), I = x_TI.size(1), O = w_OI.size(0);
  const at::ScalarType type = x_TI.scalar_type();
  CheckRows(op, "x", x_TI, {T, I}, type, x_TI.device());
  CheckRows(op, "w", w_OI, {O, I}, type, x_TI.device());
  CheckRows(op, "addend", addend_TO, {T, O}, type, x_TI.device());
  CheckRows(op, "y", y_TO, {T, O}, type, x_TI.device());
  if (y_TO.numel() == 0) return;
#ifdef FINETUNED_HAVE_CUDA
  if (x_TI.is_cuda() && type == at::kBFloat16) return ProductAddCublas(x_TI, w_OI, addend_TO, y_TO);
#endif
  at::addmm_out(y_TO, addend_TO, x_TI, w_OI.t());
}

}  // namespace finetuned::kernels
