// A decoder with an adapter on a frozen base: loss, or log probabilities of targets, and adapter gradients of one
// micro-batch. Legend: T tokens, D hidden, V vocabulary, M targets.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"
#include "engine/model/layer.h"
#include "engine/model/layer_inputs.h"
#include "engine/model/lm_head_log_probs.h"
#include "engine/model/lm_head_loss.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

struct DecoderOptions {
  bool recompute_activations = false;  // keep only each layer's input, run its forward twice
  // With recompute_activations: of this many of the last layers everything is kept, before these of so many q, k, v
  // and attention's output.
  int64_t keep_all_layers = 0, keep_attention_layers = 0;
  bool offload_inputs = false;  // with recompute_activations: inputs of layers wait in host memory
  int64_t piece_rows = 0;       // see PassContext; 0: plan::LayerPieceRows
  int64_t standing_layers = -1;  // of an NF4 base: dequantized weights of so many stay; -1: see plan/standing_weights.h
  bool deterministic = false;
  double label_smoothing = 0;
  // Called in each backward pass when the gradients of a layer's adapters have been added, from the last layer on.
  std::function<void(int64_t layer)> layer_done;
};

// Chooses the dropout masks of a pass; `pass` counts micro-batches.
struct DropoutPass {
  uint64_t seed = 0, pass = 0;
};

// kOff: the reference of preference and policy losses, which is the base alone, or with a frozen adapter.
enum class AdapterUse { kOn, kOff };

// Runs one batch at a time on the current stream; nothing here waits for the device. Call inside
// c10::InferenceMode. Out of memory: c10::Error.
class Decoder {
 public:
  // base and adapters must outlive the decoder. reference: applied where the trained one is off, with the same ranks and
  // targets; null: none.
  Decoder(const BaseModel& base, lora::Adapter& adapter, const DecoderOptions& options,
          const lora::Adapter* reference = nullptr);

  // What a new adapter begins with of the base: magnitudes (dora.h), embedding and head (trained_modules.h).
  void TakeFromBase();

  // Adds to the adapter's gradients and to sums (float64 [kLossSums], sums over targets).
  //   grad_scale    float32 [1] on the device: 1 / targets of the whole accumulation window.
  //   dropout_seed, pass   choose the dropout masks; pass counts micro-batches.
  void ForwardBackward(const DeviceBatch& batch, const at::Tensor& grad_scale,
                       uint64_t dropout_seed, uint64_t pass, at::Tensor& sums);

  // Adds the sums of a batch, without gradients, dropout or kept activations.
  void Evaluate(const DeviceBatch& batch, at::Tensor& sums);

  // Log probabilities of a batch's targets, with what BackwardLogProbs needs kept. Losses of any kind are made of two
  // calls: this one, then the backward with the loss's gradient. No dropout: none, whatever the adapter's options say.
  TargetLogProbs ForwardLogProbs(const DeviceBatch& batch, const LogProbOptions& options,
                                 const std::optional<DropoutPass>& dropout = std::nullopt);

  // Adds to the adapter's gradients, from d_log_probs_M and d_entropy_M (see LmHeadLogProbsBackward).
  // REQUIRES: the other arguments are those of the ForwardLogProbs before, and no pass ran in between.
  void BackwardLogProbs(const DeviceBatch& batch, const LogProbOptions& options, const at::Tensor& d_log_probs_M,
                        const std::optional<DropoutPass>& dropout = std::nullopt, const at::Tensor& d_entropy_M = {});

  // Log probabilities without gradients, dropout or kept activations. The results for kOn lie in the slot kPolicy, as
  // those of ForwardLogProbs, those for kOff in kReference: a reference pass leaves the policy's results alone.
  TargetLogProbs LogProbs(const DeviceBatch& batch, const LogProbOptions& options, AdapterUse adapter);

  // Logits [T, V] float32 of a small batch, for tests and tools.
  at::Tensor Logits(const DeviceBatch& batch);

  const Workspace& workspace() const { return workspace_; }
  int64_t host_bytes() const { return inputs_.host_bytes(); }  // pinned, of activations
  Workspace& workspace() { return workspace_; }  // for what runs between passes
  // For generation with the same base and adapters, between passes. Null: none stand.
  StandingWeights* standing() { return standing_.layers.empty() ? nullptr : &standing_; }

 private:
  PassContext Pass(const DeviceBatch& batch, const std::optional<DropoutPass>& dropout = std::nullopt);
  void PlaceStanding();
  const at::Tensor& Embedding(const lora::Adapter* adapter) const;
  LmHead Head(const lora::Adapter* adapter);
  Keep KeepOf(int64_t layer) const;
  LogProbOptions OfModel(LogProbOptions options) const;
  // Returns the last layer's output (residual stream). keep: leave what the backward reads.
  at::Tensor ForwardLayers(const PassContext& pass, bool keep);
  at::Tensor FinalNorm(const at::Tensor& x_TD);
  // The gradient of the residual stream, for the backward of head and layers.
  Extended TakeGradient(const DeviceBatch& batch);
  // gradient_TD: in its main part the gradient of the final norm's output.
  void BackwardLayers(const PassContext& pass, const Extended& gradient_TD);

  const BaseModel& base_;
  lora::Adapter& adapter_;
  const lora::Adapter* const reference_;
  const DecoderOptions options_;
  const int64_t chunk_rows_, piece_rows_;
  int64_t scratch_elements_;
  StandingWeights standing_;  // empty: scratch holds the weights in use
  at::Tensor standing_embed_VD_;  // where all weights stand, of an embedding in host memory
  int64_t passes_ = 0;
  Workspace workspace_;
  LayerInputs inputs_;
  at::Tensor final_rstd_T_;
};

}  // namespace finetuned::model
