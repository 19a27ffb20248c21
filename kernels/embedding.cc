#include "kernels/embedding.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/embedding_params.h"

namespace finetuned::kernels {

void EmbeddingGather(const at::Tensor& table_VD, const at::Tensor& ids_T, at::Tensor& out_TD) {
  const char* op = "EmbeddingGather";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  if (out_TD.is_cuda()) DtypeOf(op, out_TD);
  TORCH_CHECK(table_VD.dim() == 2, op, ": table has shape ", table_VD.sizes(), ", expected [V, D]");
  TORCH_CHECK(ids_T.dim() == 1, op, ": ids has shape ", ids_T.sizes(), ", expected [T]");
  const at::Device device = out_TD.device();
  const bool on_host = device.is_cuda() && table_VD.is_cpu();
  TORCH_CHECK(!on_host || table_VD.is_pinned(), op, ": a table on the host must be in pinned memory");
  CheckTensor(op, "table", table_VD, table_VD.sizes(), table_VD.scalar_type(),
              on_host ? at::Device(at::kCPU) : device);
  CheckTensor(op, "ids", ids_T, ids_T.sizes(), at::kInt, device);
  CheckTensor(op, "out", out_TD, {ids_T.size(0), table_VD.size(1)}, table_VD.scalar_type(), device);
  if (out_TD.numel() == 0) return;
  const EmbeddingParams p = {
      .table = table_VD.data_ptr(),
      .ids = ids_T.const_data_ptr<int32_t>(),
      .out = out_TD.data_ptr(),
      .V = table_VD.size(0),
      .T = ids_T.size(0),
      .row_bytes = table_VD.size(1) * static_cast<int64_t>(table_VD.element_size()),
  };
  if (out_TD.is_cuda()) {
    OnCuda(op, out_TD, [&](auto stream) { EmbeddingCuda(p, stream); });
    return;
  }
  const int64_t bad = EmbeddingCpu(p);
  TORCH_CHECK(bad < 0, op, ": token id ", p.ids[bad], " at position ", bad,
              " is outside the vocabulary of ", p.V);
}

}  // namespace finetuned::kernels
