// A decoder with an adapter on a frozen base: loss and adapter gradients of one micro-batch.
// Legend: T tokens, D hidden, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"
#include "engine/model/layer.h"
#include "engine/model/lm_head_loss.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

struct DecoderOptions {
  bool recompute_activations = false;  // keep only each layer's input, run its forward twice
  bool deterministic = false;
  double label_smoothing = 0;
};

// Runs one batch at a time on the current stream; nothing here waits for the device. Call inside
// c10::InferenceMode. Out of memory: c10::Error.
class Decoder {
 public:
  // base and adapter must outlive the decoder.
  Decoder(const BaseModel& base, lora::Adapter& adapter, const DecoderOptions& options);

  // Adds to the adapter's gradients and to sums (float64 [kLossSums], sums over targets).
  //   grad_scale    float32 [1] on the device: 1 / targets of the whole accumulation window.
  //   dropout_seed, pass   choose the dropout masks; pass counts micro-batches.
  void ForwardBackward(const DeviceBatch& batch, const at::Tensor& grad_scale,
                       uint64_t dropout_seed, uint64_t pass, at::Tensor& sums);

  // Adds the sums of a batch, without gradients, dropout or kept activations.
  void Evaluate(const DeviceBatch& batch, at::Tensor& sums);

  // Logits [T, V] float32 of a small batch, for tests and tools.
  at::Tensor Logits(const DeviceBatch& batch);

  const Workspace& workspace() const { return workspace_; }

 private:
  PassContext Pass(const DeviceBatch& batch);
  // Returns the last layer's output (residual stream). keep: fill layers_ for the backward.
  at::Tensor ForwardLayers(const PassContext& pass, bool keep);
  at::Tensor LayerInput(int64_t index, const DeviceBatch& batch);
  at::Tensor FinalNorm(const at::Tensor& x_TD);

  const BaseModel& base_;
  lora::Adapter& adapter_;
  const DecoderOptions options_;
  const int64_t chunk_rows_;
  const int64_t scratch_elements_;
  Workspace workspace_;
  std::vector<LayerActivations> layers_;
  at::Tensor final_rstd_T_;
};

}  // namespace finetuned::model
