#include "engine/preference/document_sums.h"

#include <ATen/ATen.h>

namespace finetuned::preference {

TargetGroups GroupTargets(const data::PackedBatch& batch, at::Device device) {
  TargetGroups out;
  out.documents = static_cast<int64_t>(batch.cu_seqlens.size()) - 1;
  out.targets = batch.num_targets;
  const at::Tensor host =
      at::zeros({out.documents + out.targets},
                at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda()));
  int64_t* lengths = host.data_ptr<int64_t>();
  int64_t* document = lengths + out.documents;
  for (int64_t n = 0; n < out.documents; ++n) {
    for (int64_t t = batch.cu_seqlens[n]; t < batch.cu_seqlens[n + 1]; ++t) {
      if (batch.labels[t] < 0) continue;
      ++lengths[n];
      *document++ = n;
    }
  }
  const at::Tensor all = host.to(device, /*non_blocking=*/true);
  out.lengths_N = all.narrow(0, 0, out.documents);
  out.document_M = all.narrow(0, out.documents, out.targets);
  return out;
}

at::Tensor SumPerDocument(const TargetGroups& groups, const at::Tensor& x_M) {
  // An index_add would add in any order on a GPU.
  return at::segment_reduce(x_M.to(at::kDouble), "sum", groups.lengths_N, /*indices=*/{},
                            /*offsets=*/{},
                            /*axis=*/0, /*unsafe=*/true, /*initial=*/0.0);
}

at::Tensor SpreadToTargets(const TargetGroups& groups, const at::Tensor& x_N) {
  return x_N.to(at::kFloat).index_select(0, groups.document_M);
}

}  // namespace finetuned::preference
