// A packed micro-batch on the device. Legend: T tokens, N documents, M targets, G keys of all documents.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "engine/data/packing.h"
#include "kernels/varlen_attention.h"

namespace finetuned::model {

struct DeviceBatch {
  int64_t tokens = 0;
  int64_t targets = 0;
  int64_t max_seqlen = 0;
  std::vector<int32_t> cu_seqlens_host;  // [N+1]
  // int32, on the device, views of one upload.
  at::Tensor ids_T, position_ids_T, cu_seqlens;
  at::Tensor target_rows_M;    // positions that have a target, ascending
  at::Tensor target_labels_M;  // the targets

  // Where documents share a prefix: the keys of each are copies of the prefix's rows and its own. int32, on the device.
  bool shares_prefixes = false;
  kernels::KeyDocuments keys;  // bounds of the copies
  at::Tensor key_rows_G;       // the row that each is a copy of
  // Of row t the copies are key_copies_G[key_offsets_T1[t] .. key_offsets_T1[t + 1]).
  at::Tensor key_offsets_T1, key_copies_G;
};

// One copy to the device, asynchronous from pinned memory on CUDA.
DeviceBatch Upload(const data::PackedBatch& batch, at::Device device);

}  // namespace finetuned::model
