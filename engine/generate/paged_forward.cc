#include "engine/generate/paged_forward.h"

#include <utility>

#include "engine/model/block_parts.h"
#include "engine/plan/generation.h"
#include "kernels/varlen_attention.h"

namespace finetuned::generate {

PromptAttention::PromptAttention(const format::ModelConfig& model, KvCache* cache,
                                 kernels::PagedRows rows, const model::DeviceBatch& batch)
    : model_(model), cache_(cache), rows_(std::move(rows)), batch_(batch) {}

void PromptAttention::Forward(int64_t layer, const at::Tensor& q_THE, const at::Tensor& k_TKE,
                              const at::Tensor& v_TKE, at::Tensor& out_THE,
                              at::Tensor& lse_HT) {
  kernels::PagedCache cache = cache_->Layer(layer);
  kernels::WritePaged(k_TKE, v_TKE, rows_, cache);
  kernels::VarlenAttentionForward(q_THE, k_TKE, v_TKE, batch_.cu_seqlens, batch_.cu_seqlens_host,
                                  batch_.max_seqlen, model::Scores(model_, layer), out_THE, lse_HT);
}

StepAttention::StepAttention(const format::ModelConfig& model, KvCache* cache,
                             kernels::PagedRows rows, model::Workspace* workspace)
    : model_(model), cache_(cache), rows_(std::move(rows)) {
  if (!rows_.slots_T.is_cuda()) return;
  const int64_t longest = rows_.tables_SM.size(1) * kernels::kCacheBlock;
  splits_ = plan::DecodeAttentionSplits(model, rows_.slots_T.size(0), longest);
  // As much as any step needs: recorded steps keep its address.
  const int64_t parts = plan::DecodeAttentionParts(model, rows_.tables_SM.size(0) - 1, longest);
  scratch_ = workspace->Take(
      "attention.parts", 0,
      {kernels::PagedAttentionScratch(1, model.num_attention_heads, model.head_dim, parts)}, at::kFloat);
}

void StepAttention::Forward(int64_t layer, const at::Tensor& q_BHE, const at::Tensor& k_BKE,
                            const at::Tensor& v_BKE, at::Tensor& out_BHE,
                            at::Tensor&) {
  kernels::PagedCache cache = cache_->Layer(layer);
  kernels::WritePaged(k_BKE, v_BKE, rows_, cache);
  kernels::PagedAttention(q_BHE, cache, rows_, model::Scores(model_, layer), splits_, scratch_, out_BHE);
}

}  // namespace finetuned::generate
