#include "engine/model/batch.h"

#include <ATen/ATen.h>

#include <algorithm>


namespace finetuned::model {
namespace {

// See DeviceBatch; empty where nothing is shared.
struct Keys {
  std::vector<int32_t> cu_seqlens, rows, offsets, copies;
  int32_t longest = 0;

  explicit Keys(const data::PackedBatch& batch) {
    if (batch.prefixes.empty()) return;
    cu_seqlens.push_back(0);
    for (size_t n = 0; n < batch.prefixes.size(); ++n) {
      const data::SharedPrefix prefix = batch.prefixes[n];
      for (int32_t i = 0; i < prefix.length; ++i) rows.push_back(prefix.start + i);
      for (int32_t t = batch.cu_seqlens[n]; t < batch.cu_seqlens[n + 1]; ++t) rows.push_back(t);
      cu_seqlens.push_back(static_cast<int32_t>(rows.size()));
      longest = std::max(longest, cu_seqlens[n + 1] - cu_seqlens[n]);
    }
    // By row, in the order of the copies.
    offsets.assign(batch.input_ids.size() + 1, 0);
    for (int32_t row : rows) ++offsets[static_cast<size_t>(row) + 1];
    for (size_t t = 1; t < offsets.size(); ++t) offsets[t] += offsets[t - 1];
    std::vector<int32_t> next(offsets.begin(), offsets.end() - 1);
    copies.resize(rows.size());
    for (size_t g = 0; g < rows.size(); ++g) {
      copies[static_cast<size_t>(next[static_cast<size_t>(rows[g])]++)] = static_cast<int32_t>(g);
    }
  }
  size_t size() const { return cu_seqlens.size() + rows.size() + offsets.size() + copies.size(); }
};

}  // namespace

DeviceBatch Upload(const data::PackedBatch& batch, at::Device device) {
  const int64_t tokens = static_cast<int64_t>(batch.input_ids.size());
  const int64_t bounds = static_cast<int64_t>(batch.cu_seqlens.size());
  std::vector<int32_t> rows;
  for (int64_t t = 0; t < tokens; ++t) {
    if (batch.labels[t] >= 0) rows.push_back(static_cast<int32_t>(t));
  }
  const int64_t targets = static_cast<int64_t>(rows.size());
  const Keys keys(batch);

  at::Tensor host = at::empty({2 * tokens + bounds + 2 * targets + static_cast<int64_t>(keys.size())},
                              at::TensorOptions().dtype(at::kInt).pinned_memory(device.is_cuda()));
  int32_t* p = host.data_ptr<int32_t>();
  p = std::copy(batch.input_ids.begin(), batch.input_ids.end(), p);
  p = std::copy(batch.position_ids.begin(), batch.position_ids.end(), p);
  p = std::copy(batch.cu_seqlens.begin(), batch.cu_seqlens.end(), p);
  p = std::copy(rows.begin(), rows.end(), p);
  for (int32_t row : rows) *p++ = batch.labels[row];
  for (const std::vector<int32_t>* part : {&keys.cu_seqlens, &keys.rows, &keys.offsets, &keys.copies}) {
    p = std::copy(part->begin(), part->end(), p);
  }
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
  if (keys.rows.empty()) return out;
  out.shares_prefixes = true;
  out.keys = {take(bounds), keys.cu_seqlens, keys.longest};
  out.key_rows_G = take(static_cast<int64_t>(keys.rows.size()));
  out.key_offsets_T1 = take(tokens + 1);
  out.key_copies_G = take(static_cast<int64_t>(keys.copies.size()));
  return out;
}

}  // namespace finetuned::model
