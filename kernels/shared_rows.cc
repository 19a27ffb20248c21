#include "kernels/shared_rows.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/shared_rows_params.h"

namespace finetuned::kernels {
namespace {

// Every entry of an index on the CPU lies in [0, end).
void CheckIndex(const char* op, const char* name, const at::Tensor& index, int64_t end) {
  if (!index.is_cpu()) return;
  const int32_t* p = index.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < index.size(0); ++i) {
    TORCH_CHECK(p[i] >= 0 && p[i] < end, op, ": ", name, "[", i, "] is ", p[i], ", outside the ", end, " rows");
  }
}

}  // namespace

void CopySharedRows(const at::Tensor& x_TC, const at::Tensor& rows_G, at::Tensor& out_GC) {
  const char* op = "CopySharedRows";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  CopySharedRowsParams p = {};
  p.dtype = DtypeOf(op, x_TC);
  TORCH_CHECK(x_TC.dim() == 2, op, ": x has shape ", x_TC.sizes(), ", expected [T, C]");
  const at::ScalarType type = x_TC.scalar_type();
  p.G = rows_G.numel();
  p.C = x_TC.size(1);
  CheckTensor(op, "rows", rows_G, {p.G}, at::kInt, x_TC.device());
  p.x_stride = CheckRows(op, "x", x_TC, x_TC.sizes(), type, x_TC.device());
  p.out_stride = CheckRows(op, "out", out_GC, {p.G, p.C}, type, x_TC.device());
  CheckIndex(op, "rows", rows_G, x_TC.size(0));
  if (out_GC.numel() == 0) return;
  p.x = x_TC.data_ptr();
  p.rows = rows_G.const_data_ptr<int32_t>();
  p.out = out_GC.data_ptr();
  if (!x_TC.is_cuda()) return CopySharedRowsCpu(p);
  OnCuda(op, x_TC, [&](auto stream) { CopySharedRowsCuda(p, stream); });
}

void SumSharedRows(const at::Tensor& d_GC, const at::Tensor& offsets_T1, const at::Tensor& copies_G,
                   at::Tensor& out_TC) {
  const char* op = "SumSharedRows";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  SumSharedRowsParams p = {};
  p.dtype = DtypeOf(op, d_GC);
  TORCH_CHECK(d_GC.dim() == 2, op, ": d has shape ", d_GC.sizes(), ", expected [G, C]");
  const at::ScalarType type = d_GC.scalar_type();
  p.T = offsets_T1.numel() - 1;
  p.C = d_GC.size(1);
  CheckTensor(op, "offsets", offsets_T1, {p.T + 1}, at::kInt, d_GC.device());
  CheckTensor(op, "copies", copies_G, {d_GC.size(0)}, at::kInt, d_GC.device());
  p.d_stride = CheckRows(op, "d", d_GC, d_GC.sizes(), type, d_GC.device());
  p.out_stride = CheckRows(op, "out", out_TC, {p.T, p.C}, type, d_GC.device());
  CheckIndex(op, "copies", copies_G, d_GC.size(0));
  CheckIndex(op, "offsets", offsets_T1, d_GC.size(0) + 1);
  if (out_TC.numel() == 0) return;
  p.d = d_GC.data_ptr();
  p.offsets = offsets_T1.const_data_ptr<int32_t>();
  p.copies = copies_G.const_data_ptr<int32_t>();
  p.out = out_TC.data_ptr();
  if (!d_GC.is_cuda()) return SumSharedRowsCpu(p);
  OnCuda(op, d_GC, [&](auto stream) { SumSharedRowsCuda(p, stream); });
}

}  // namespace finetuned::kernels
