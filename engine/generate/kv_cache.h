// Keys and values of all sequences of a generator, in blocks that sequences with the same prompt share.
// Legend: L layers, N blocks, K key/value heads, P tokens of a block, E head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/format/model_config.h"
#include "kernels/paged_attention.h"

namespace finetuned::generate {

// Which blocks are in use, by how many. Block 0 is never given away: rows without a sequence write there.
class BlockPool {
 public:
  explicit BlockPool(int64_t blocks);

  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  // REQUIRES: free() > 0. The new block has one user.
  int32_t Take();
  void Share(int32_t block) { ++users_[block]; }
  // The block is free again once its last user is gone.
  void Release(int32_t block);

 private:
  std::vector<int32_t> free_, users_;
};

int64_t BlocksOf(int64_t tokens);

// The blocks' memory: one tensor [L, 2, N, K, P, E].
class KvCache {
 public:
  KvCache(const format::ModelConfig& model, int64_t tokens, at::Device device, at::ScalarType dtype);

  BlockPool& pool() { return pool_; }
  int64_t blocks() const { return cache_.size(2); }
  int64_t bytes() const { return static_cast<int64_t>(cache_.nbytes()); }
  kernels::PagedCache Layer(int64_t layer) const;
  // Copies blocks (from, to) of all layers, on the device. Targets must differ and be no source.
  void Copy(const std::vector<std::pair<int32_t, int32_t>>& blocks);

 private:
  at::Tensor cache_;
  BlockPool pool_;
};

}  // namespace finetuned::generate
