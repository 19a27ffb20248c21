#include "engine/model/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "engine/model/block_parts.h"
#include "engine/model/dora.h"
#include "engine/model/trained_modules.h"
#include "engine/plan/head.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/standing_weights.h"

namespace finetuned::model {

Decoder::Decoder(const BaseModel& base, lora::Adapter& adapter, const DecoderOptions& options,
                 const lora::Adapter* reference)
    : base_(base),
      adapter_(adapter),
      reference_(reference),
      options_(options),
      chunk_rows_(plan::LogitsChunkRows(base.config.vocab_size)),
      piece_rows_(options.piece_rows > 0 ? options.piece_rows
                                         : plan::LayerPieceRows(base.config.intermediate_size)),
      scratch_elements_(ScratchElements(base, &adapter, options.recompute_activations)),
      workspace_(base.options.device),
      inputs_(&workspace_, base.options.device, static_cast<int64_t>(base.layers.size()),
              options.recompute_activations && options.offload_inputs) {
  if (base.options.quantized() && !adapter.options().use_dora) PlaceStanding();  // DoRA needs scratch beside them
}

void Decoder::PlaceStanding() {
  const int64_t layers = static_cast<int64_t>(base_.layers.size());
  int64_t elements = 0;
  for (int64_t i = 0; i < layers; ++i) elements += StandingElements(base_, adapter_, i);
  const int64_t bytes = elements * static_cast<int64_t>(c10::elementSize(base_.options.dtype));
  const int64_t standing = plan::StandingLayers(options_.standing_layers, layers, bytes, base_.options.device.is_cuda(),
                                                options_.recompute_activations);
  for (int64_t i = 0; i < standing; ++i) {
    standing_.layers.push_back(PlaceStandingWeights(
        base_, adapter_, i,
        workspace_.Take("standing_weights", i, {StandingElements(base_, adapter_, i)}, base_.options.dtype)));
  }
  if (standing < layers) return;
  scratch_elements_ = 0;
  if (!base_.options.device.is_cuda() || !base_.embed_VD.is_cpu()) return;
  standing_embed_VD_ = workspace_.Take("standing_embedding", 0, base_.embed_VD.sizes(), base_.options.dtype);
  standing_embed_VD_.copy_(base_.embed_VD);
}

const at::Tensor& Decoder::Embedding(const lora::Adapter* adapter) const {
  const at::Tensor& chosen = EmbeddingOf(base_, adapter);
  return standing_embed_VD_.defined() && chosen.is_same(base_.embed_VD) ? standing_embed_VD_ : chosen;
}

// Between the layers' uses of their scratch its memory serves the head.
LmHead Decoder::Head(const lora::Adapter* adapter) {
  LmHead head = HeadOf(base_, adapter);
  if (head.stored == nullptr) return head;
  const int64_t own = plan::HeadScratchElements(PlanInputOf(base_), scratch_elements_);
  head.scratch = own > 0 ? workspace_.Take("dequantized_head", 0, {own}, base_.options.dtype)
                         : workspace_.Take("dequantized_weight", 0, {scratch_elements_}, base_.options.dtype);
  return head;
}

PassContext Decoder::Pass(const DeviceBatch& batch, const std::optional<DropoutPass>& dropout) {
  PassContext pass;
  pass.base = &base_;
  pass.adapter = &adapter_;
  pass.batch = &batch;
  pass.workspace = &workspace_;
  pass.scratch = workspace_.Take("dequantized_weight", 0, {scratch_elements_}, base_.options.dtype);
  RefreshGains(base_, adapter_, pass.scratch, workspace_);
  pass.dropout.sites = static_cast<int64_t>(adapter_.sites().size());
  pass.deterministic = options_.deterministic;
  pass.number = ++passes_;
  if (!standing_.layers.empty()) pass.standing = &standing_;
  pass.recomputes = options_.recompute_activations;
  pass.long_rope = TakesLongRope(base_.config, std::max(batch.max_seqlen, batch.keys.max_seqlen));
  pass.piece_rows = options_.recompute_activations ? piece_rows_ : batch.tokens;
  if (dropout.has_value()) {
    pass.dropout.p = adapter_.options().dropout;
    pass.dropout.seed = dropout->seed;
    pass.dropout.pass = dropout->pass;
  }
  return pass;
}

void Decoder::TakeFromBase() {
  CopyModules(base_, adapter_);
  if (!adapter_.options().use_dora) return;
  model::InitializeMagnitudes(base_, adapter_,
                              workspace_.Take("dequantized_weight", 0, {scratch_elements_}, base_.options.dtype),
                              workspace_);
}

Keep Decoder::KeepOf(int64_t layer) const {
  if (!options_.recompute_activations) return Keep::kAll;
  const int64_t from_last = static_cast<int64_t>(base_.layers.size()) - layer;
  if (from_last <= options_.keep_all_layers) return Keep::kAll;
  return from_last <= options_.keep_all_layers + options_.keep_attention_layers ? Keep::kAttention : Keep::kNothing;
}

LogProbOptions Decoder::OfModel(LogProbOptions options) const {
  options.logits_softcap = base_.config.logits_softcap;
  return options;
}

at::Tensor Decoder::ForwardLayers(const PassContext& pass, bool keep) {
  const std::array<int64_t, 2> shape = {pass.batch->tokens, base_.config.hidden_size};
  const auto input = [&](int64_t i) { return inputs_.ForWriting(i, shape, base_.options.dtype, keep); };
  at::Tensor x_TD = input(0);
  Embed(base_, Embedding(pass.adapter), pass.batch->ids_T, x_TD);
  inputs_.Written(0, keep);
  for (int64_t i = 0; i < static_cast<int64_t>(base_.layers.size()); ++i) {
    const at::Tensor out_TD = input(i + 1);
    LayerForward(pass, i, keep ? KeepOf(i) : Keep::kNothing, x_TD, out_TD);
    inputs_.Written(i + 1, keep);
    x_TD = out_TD;
  }
  return x_TD;
}

at::Tensor Decoder::FinalNorm(const at::Tensor& x_TD) {
  at::Tensor hidden_TD = workspace_.Take("hidden", 0, x_TD.sizes(), x_TD.scalar_type());
  final_rstd_T_ = workspace_.Take("hidden.rstd", 0, {x_TD.size(0)}, at::kFloat);
  NormForward(base_.config, x_TD, base_.final_norm_D, hidden_TD, final_rstd_T_);
  return hidden_TD;
}

Extended Decoder::TakeGradient(const DeviceBatch& batch) {
  return workspace_.TakeExtended("hidden.gradient", 0, batch.tokens, base_.config.hidden_size,
                                 ResidualSpare(adapter_), base_.options.dtype);
}

void Decoder::BackwardLayers(const PassContext& pass, const Extended& gradient_TD) {
  const int64_t n = static_cast<int64_t>(base_.layers.size());
  at::Tensor dx_TD = gradient_TD.main();
  const auto input = [&](int64_t i) { return inputs_.ForReading(i, dx_TD.sizes(), dx_TD.scalar_type()); };
  NormBackward(base_.config, dx_TD, input(n), base_.final_norm_D, final_rstd_T_, /*accumulate=*/false, dx_TD);
  const bool embeds = adapter_.embed_tokens().weight_VD.defined();
  for (int64_t i = n - 1; i >= 0; --i) {
    LayerBackward(pass, i, KeepOf(i), input(i), /*need_input_gradient=*/i > 0 || embeds, gradient_TD);
    if (options_.layer_done) options_.layer_done(i);
  }
  if (embeds) AddEmbeddingGradient(adapter_, *pass.batch, EmbeddingFactor(base_), dx_TD, workspace_);
}

void Decoder::ForwardBackward(const DeviceBatch& batch, const at::Tensor& grad_scale,
                              uint64_t dropout_seed, uint64_t pass_number, at::Tensor& sums) {
  const PassContext pass = Pass(batch, DropoutPass{dropout_seed, pass_number});
  const at::Tensor hidden_TD = FinalNorm(ForwardLayers(pass, /*keep=*/true));
  const Extended gradient_TD = TakeGradient(batch);
  at::Tensor dhidden_TD = gradient_TD.main();
  LmHeadLoss(hidden_TD, Head(&adapter_), batch,
             {chunk_rows_, options_.label_smoothing, grad_scale, adapter_.lm_head().dweight_VD,
              base_.config.logits_softcap},
             workspace_, dhidden_TD, sums);
  BackwardLayers(pass, gradient_TD);
}

TargetLogProbs Decoder::ForwardLogProbs(const DeviceBatch& batch, const LogProbOptions& options,
                                        const std::optional<DropoutPass>& dropout) {
  const at::Tensor hidden_TD = FinalNorm(ForwardLayers(Pass(batch, dropout), /*keep=*/true));
  return LmHeadLogProbs(hidden_TD, Head(&adapter_), batch, OfModel(options), chunk_rows_, LogProbSlot::kPolicy,
                        workspace_);
}

void Decoder::BackwardLogProbs(const DeviceBatch& batch, const LogProbOptions& options,
                               const at::Tensor& d_log_probs_M, const std::optional<DropoutPass>& dropout,
                               const at::Tensor& d_entropy_M) {
  const at::Tensor hidden_TD =
      workspace_.Take("hidden", 0, {batch.tokens, base_.config.hidden_size}, base_.options.dtype);
  const Extended gradient_TD = TakeGradient(batch);
  at::Tensor dhidden_TD = gradient_TD.main();
  LogProbOptions with_head = OfModel(options);
  with_head.head_gradient_VD = adapter_.lm_head().dweight_VD;
  LmHeadLogProbsBackward(hidden_TD, Head(&adapter_), batch, with_head, chunk_rows_, d_log_probs_M, d_entropy_M,
                         workspace_, dhidden_TD);
  BackwardLayers(Pass(batch, dropout), gradient_TD);
}

TargetLogProbs Decoder::LogProbs(const DeviceBatch& batch, const LogProbOptions& options, AdapterUse adapter) {
  PassContext pass = Pass(batch);
  if (adapter == AdapterUse::kOff) {
    pass.adapter = reference_;
    if (reference_ != nullptr) RefreshGains(base_, *reference_, pass.scratch, workspace_);
  }
  const at::Tensor hidden_TD = FinalNorm(ForwardLayers(pass, /*keep=*/false));
  return LmHeadLogProbs(hidden_TD, Head(pass.adapter), batch, OfModel(options), chunk_rows_,
                        adapter == AdapterUse::kOff ? LogProbSlot::kReference : LogProbSlot::kPolicy, workspace_);
}

void Decoder::Evaluate(const DeviceBatch& batch, at::Tensor& sums) {
  const PassContext pass = Pass(batch);
  const at::Tensor hidden_TD = FinalNorm(ForwardLayers(pass, /*keep=*/false));
  at::Tensor no_gradient;
  LmHeadLoss(hidden_TD, Head(&adapter_), batch,
             {chunk_rows_, /*label_smoothing=*/0, {}, {}, base_.config.logits_softcap},
             workspace_, no_gradient, sums);
}

at::Tensor Decoder::Logits(const DeviceBatch& batch) {
  const PassContext pass = Pass(batch);
  const at::Tensor hidden_TD = FinalNorm(ForwardLayers(pass, /*keep=*/false));
  at::Tensor logits_TV = at::empty({batch.tokens, base_.config.vocab_size}, hidden_TD.options().dtype(at::kFloat));
  HeadLogits(Head(&adapter_), hidden_TD, logits_TV);
  CapLogits(base_.config.logits_softcap, logits_TV);
  return logits_TV;
}

}  // namespace finetuned::model
