// What attention is during generation: keys and values go into the cache, queries read the prompt itself or the cache.
#pragma once

#include <cstdint>

#include "engine/generate/kv_cache.h"
#include "engine/model/layer.h"

namespace finetuned::generate {

// A pass over whole prompts: stores them and attends inside each.
class PromptAttention : public model::CacheAttention {
 public:
  PromptAttention(const format::ModelConfig& model, KvCache* cache, kernels::PagedRows rows,
                  const model::DeviceBatch& batch);
  void Forward(int64_t layer, const at::Tensor& q_THE, const at::Tensor& k_TKE,
               const at::Tensor& v_TKE, at::Tensor& out_THE, at::Tensor& lse_HT) override;

 private:
  const format::ModelConfig& model_;
  KvCache* const cache_;
  const kernels::PagedRows rows_;
  const model::DeviceBatch& batch_;
};

// One new token of each row: stores it and attends to all of its sequence.
class StepAttention : public model::CacheAttention {
 public:
  StepAttention(const format::ModelConfig& model, KvCache* cache, kernels::PagedRows rows,
                model::Workspace* workspace);
  void Forward(int64_t layer, const at::Tensor& q_BHE, const at::Tensor& k_BKE,
               const at::Tensor& v_BKE, at::Tensor& out_BHE, at::Tensor& lse_HB) override;

 private:
  const format::ModelConfig& model_;
  KvCache* const cache_;
  const kernels::PagedRows rows_;
  int64_t splits_ = 1;
  at::Tensor scratch_;
};

}  // namespace finetuned::generate
