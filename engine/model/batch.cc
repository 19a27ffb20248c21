#include "engine/model/batch.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace finetuned::model {

DeviceBatch Upload(const data::PackedBatch& batch, at::Device device) {
  const int64_t tokens = static_cast<int64_t>(batch.input_ids.size());
  const int64_t bounds = static_cast<int64_t>(batch.cu_seqlens.size());
  std::vector<int32_t> rows;
  for (int64_t t = 0; t < tokens; ++t) {
    if (batch.labels[t] >= 0) rows.push_back(static_cast<int32_t>(t));
  }
  const int64_t targets = static_cast<int64_t>(rows.size());

  at::Tensor host = at::empty({2 * tokens + bounds + 2 * targets},
                              at::TensorOptions().dtype(at::kInt).pinned_memory(device.is_cuda()));
  int32_t* p = host.data_ptr<int32_t>();
  p = std::copy(batch.input_ids.begin(), batch.input_ids.end(), p);
  p = std::copy(batch.position_ids.begin(), batch.position_ids.end(), p);
  p = std::copy(batch.cu_seqlens.begin(), batch.cu_seqlens.end(), p);
  p = std::copy(rows.begin(), rows.end(), p);
  for (int32_t row : rows) *p++ = batch.labels[row];
  const at::Tensor all = host.to(device, /*non_blocking=*/true);

  DeviceBatch out;
  out.tokens = tokens;
  out.targets = targets;
  out.max_seqlen = batch.max_seqlen;
  out.cu_seqlens_host = batch.cu_seqlens;
  int64_t offset = 0;
  auto take = [&](int64_t n) {
    at::Tensor view = all.narrow(0, offset, n);
    offset += n;
    return view;
  };
  out.ids_T = take(tokens);
  out.position_ids_T = take(tokens);
  out.cu_seqlens = take(bounds);
  out.target_rows_M = take(targets);
  out.target_labels_M = take(targets);
  return out;
}

}  // namespace finetuned::model
