#include "engine/generate/kv_cache.h"

#include <ATen/ATen.h>

#include "engine/plan/generation.h"

namespace finetuned::generate {

static_assert(plan::kCacheBlockTokens == kernels::kCacheBlock);

BlockPool::BlockPool(int64_t blocks) : users_(static_cast<size_t>(blocks), 0) {
  for (int64_t b = blocks - 1; b > 0; --b) free_.push_back(static_cast<int32_t>(b));
}

int32_t BlockPool::Take() {
  TORCH_CHECK(!free_.empty(), "BlockPool: no block is free");
  const int32_t block = free_.back();
  free_.pop_back();
  users_[block] = 1;
  return block;
}

void BlockPool::Release(int32_t block) {
  TORCH_CHECK(users_[block] > 0, "BlockPool: block ", block, " is free already");
  if (--users_[block] == 0) free_.push_back(block);
}

int64_t BlocksOf(int64_t tokens) {
  return (tokens + kernels::kCacheBlock - 1) / kernels::kCacheBlock;
}

KvCache::KvCache(const format::ModelConfig& model, int64_t tokens, at::Device device,
                 at::ScalarType dtype)
    : cache_(at::empty({model.num_hidden_layers, 2, BlocksOf(tokens) + 1, model.num_key_value_heads,
                        kernels::kCacheBlock, model.head_dim},
                       at::TensorOptions().device(device).dtype(dtype))),
      pool_(BlocksOf(tokens) + 1) {
  cache_.select(2, 0).zero_();
}

kernels::PagedCache KvCache::Layer(int64_t layer) const {
  const at::Tensor both = cache_.select(0, layer);
  return {both.select(0, 0), both.select(0, 1)};
}

void KvCache::Copy(const std::vector<std::pair<int32_t, int32_t>>& blocks) {
  if (blocks.empty()) return;
  const int64_t n = static_cast<int64_t>(blocks.size());
  at::Tensor host = at::empty({2, n}, at::TensorOptions().dtype(at::kLong).pinned_memory(cache_.is_cuda()));
  int64_t* p = host.data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    p[i] = blocks[i].first;
    p[n + i] = blocks[i].second;
  }
  const at::Tensor indices = host.to(cache_.device(), /*non_blocking=*/true);
  cache_.index_copy_(2, indices[1], cache_.index_select(2, indices[0]));
}

}  // namespace finetuned::generate
