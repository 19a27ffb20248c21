// One launch over a list of tensors: the list travels as a kernel parameter (at most 32,764 bytes
// since CUDA 12.1), each tensor owns a run of blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace finetuned::kernels {

// kCapacity entries, first_block[i] .. first_block[i+1] are the blocks of entry i.
template <typename Entry, int kCapacity>
struct TensorBatch {
  static constexpr int kMax = kCapacity;
  Entry entry[kCapacity];
  int first_block[kCapacity + 1];
  int count;
};

// Fills a batch from list[begin...]: as many entries as fit, kElements elements of a tensor per
// block. Returns the index after the last entry taken. Empty tensors take no block.
template <typename Batch, typename Entry>
size_t FillBatch(const std::vector<Entry>& list, size_t begin, int64_t elements_per_block,
                 Batch& batch) {
  batch.count = 0;
  batch.first_block[0] = 0;
  size_t i = begin;
  for (; i < list.size() && batch.count < Batch::kMax; ++i) {
    const int64_t blocks = (list[i].n + elements_per_block - 1) / elements_per_block;
    if (blocks == 0) continue;
    batch.entry[batch.count] = list[i];
    batch.first_block[batch.count + 1] = batch.first_block[batch.count] + static_cast<int>(blocks);
    ++batch.count;
  }
  return i;
}

#ifdef __CUDACC__
// Index of the entry that owns the block.
template <typename Batch>
__device__ __forceinline__ int EntryOfBlock(const Batch& batch, int block) {
  int low = 0, high = batch.count;  // first_block[low] <= block < first_block[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (batch.first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}
#endif

}  // namespace finetuned::kernels
