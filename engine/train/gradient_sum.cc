#include "engine/train/gradient_sum.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

namespace finetuned::train {
namespace {

// Large enough for the full speed of a link, small enough that the last one to be exchanged does not matter.
constexpr int64_t kSliceElements = 4 << 20;

}  // namespace

GradientSum::GradientSum(World* world, lora::Adapter* adapter) : world_(world), adapter_(adapter) {
  if (world_ == nullptr) return;
  // The layers lie one after another; modules that train as a whole lie behind them.
  const int64_t all = adapter->gradients().numel();
  int64_t layers_end = all;
  for (const at::Tensor& whole : {adapter->embed_tokens().dweight_VD, adapter->lm_head().dweight_VD}) {
    if (whole.defined()) layers_end = std::min(layers_end, whole.storage_offset());
  }
  std::map<int64_t, int64_t, std::greater<>> first_of_layer;
  for (const lora::Site& site : adapter->sites()) {
    const int64_t first = std::min(site.da_RI.storage_offset(), site.db_OR.storage_offset());
    const auto [at, added] = first_of_layer.emplace(site.layer, first);
    if (!added) at->second = std::min(at->second, first);
  }
  int64_t end = layers_end;
  for (const auto& [layer, first] : first_of_layer) {
    if (end - first < kSliceElements && first > 0) continue;
    slices_.push_back({first, end, layer});
    end = first;
  }
  if (layers_end < all) slices_.push_back({layers_end, all, -1});
}

void GradientSum::Begin(int64_t passes) {
  passes_left_ = passes;
  started_ = 0;
}

void GradientSum::LayerDone(int64_t layer) {
  if (world_ == nullptr || passes_left_ == 0) return;
  if (passes_left_ == 1) {
    size_t ready = started_;
    while (ready < slices_.size() && slices_[ready].layer >= layer) ++ready;
    StartUpTo(ready);
  }
  if (layer == 0) --passes_left_;
}

void GradientSum::Finish() {
  passes_left_ = 0;
  if (world_ == nullptr) return;
  StartUpTo(slices_.size());
  world_->JoinSums();
}

void GradientSum::StartUpTo(size_t slices) {
  for (; started_ < slices; ++started_) {
    const Slice& slice = slices_[started_];
    world_->StartSum(adapter_->gradients().narrow(0, slice.begin, slice.end - slice.begin));
  }
}

}  // namespace finetuned::train
