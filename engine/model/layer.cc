#include "engine/model/layer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/varlen_attention.h"

namespace finetuned::model {
namespace {

using lora::GroupKind;

// One fused linear of a layer with its adapters. Buffers that it reads have Spare columns behind them: u = x A^T
// behind the input, du behind the output's gradient.
class Projection {
 public:
  Projection(const PassContext& pass, const FrozenLinear& linear, int64_t layer, GroupKind kind)
      : pass_(pass), linear_(linear) {
    if (pass.adapter == nullptr) return;
    group_ = &pass.adapter->group(layer, kind);
    ranks_ = group_->ranks();
    scaling_ = pass.adapter->options().scaling();
  }

  int64_t ranks() const { return ranks_; }

  // y_TO undefined: only u, which the backward reads.
  void Forward(const Extended& x_TI, at::Tensor y_TO) const {
    const at::Tensor x = x_TI.main();
    at::Tensor u_TG = x_TI.low(ranks_);
    if (ranks_ > 0) {
      at::Tensor dropped = Dropped(x);
      lora::Down(*group_, x, pass_.dropout, dropped, u_TG);
    }
    if (!y_TO.defined()) return;
    if (Rides()) {
      const at::Tensor w = Extend(/*with_a=*/false);
      at::mm_out(y_TO, x_TI.With(ranks_), w.narrow(0, 0, linear_.out()).t());
    } else {
      at::mm_out(y_TO, x, linear_.Weight(pass_.scratch).t());
    }
    if (linear_.bias_O().defined()) y_TO.add_(linear_.bias_O());
    if (ranks_ > 0 && !Rides()) lora::AddUp(*group_, scaling_, u_TG, y_TO);
  }

  // dx_TI undefined: only the gradients of the adapters.
  void Backward(const Extended& dy_TO, const Extended& x_TI, at::Tensor dx_TI) const {
    const at::Tensor dy = dy_TO.main(), x = x_TI.main(), u_TG = x_TI.low(ranks_);
    at::Tensor du_TG = dy_TO.low(ranks_);
    if (Rides()) {
      const at::Tensor w = Extend(/*with_a=*/true);
      const int64_t in = linear_.in(), out = linear_.out();
      at::mm_out(du_TG, dy, w.narrow(0, 0, out).narrow(1, in, ranks_));
      if (dx_TI.defined()) at::mm_out(dx_TI, dy_TO.With(ranks_), w.narrow(1, 0, in));
      lora::AddGradients(*group_, scaling_, dy, du_TG, x, u_TG);
      return;
    }
    if (dx_TI.defined()) at::mm_out(dx_TI, dy, linear_.Weight(pass_.scratch));
    if (ranks_ == 0) return;
    at::Tensor dropped = Dropped(x);
    lora::AddBackward(*group_, scaling_, dy, x, u_TG, pass_.dropout, dropped, du_TG, dx_TI);
  }

 private:
  // The adapters ride on the frozen product: one matrix holds W, A and B.
  bool Rides() const { return ranks_ > 0 && linear_.quantized() && pass_.dropout.p == 0; }

  at::Tensor Extend(bool with_a) const {
    at::Tensor w = linear_.Extended(pass_.scratch, ranks_);
    lora::ExtendWeight(*group_, scaling_, with_a, w);
    return w;
  }

  at::Tensor Dropped(const at::Tensor& x_TI) const {
    if (pass_.dropout.p == 0) return {};
    return pass_.workspace->Take("lora_dropped", 0, x_TI.sizes(), x_TI.scalar_type());
  }

  const PassContext& pass_;
  const FrozenLinear& linear_;
  const lora::Group* group_ = nullptr;
  int64_t ranks_ = 0;
  double scaling_ = 0;
};

struct LayerProjections {
  Projection qkv, o, gate_up, down;
  LayerProjections(const PassContext& pass, int64_t layer)
      : qkv(pass, pass.base->layers[layer].qkv, layer, GroupKind::kQkv),
        o(pass, pass.base->layers[layer].o, layer, GroupKind::kO),
        gate_up(pass, pass.base->layers[layer].gate_up, layer, GroupKind::kGateUp),
        down(pass, pass.base->layers[layer].down, layer, GroupKind::kDown) {}
};

// q, k, v as [T, heads, E] views of the fused buffer.
struct Heads {
  at::Tensor q_THE, k_TKE, v_TKE;
  Heads(const format::ModelConfig& m, const at::Tensor& qkv_TQ) {
    const int64_t e = m.head_dim, q = m.q_size(), kv = m.kv_size();
    const auto take = [&](int64_t first, int64_t columns, int64_t heads) {
      return qkv_TQ.narrow(1, first, columns).unflatten(1, {heads, e});
    };
    q_THE = take(0, q, m.num_attention_heads);
    k_TKE = take(q, kv, m.num_key_value_heads);
    v_TKE = take(q + kv, kv, m.num_key_value_heads);
  }
};

double AttentionScale(const format::ModelConfig& m) {
  return 1.0 / std::sqrt(static_cast<double>(m.head_dim));
}

void TakeActivations(const PassContext& pass, const LayerProjections& p, int64_t slot,
                     LayerActivations* a) {
  const format::ModelConfig& m = pass.base->config;
  const at::ScalarType dtype = pass.base->options.dtype;
  const int64_t t = pass.batch->tokens, d = m.hidden_size, f = m.intermediate_size;
  Workspace& w = *pass.workspace;
  a->rstd1_T = w.Take("layer.rstd1", slot, {t}, at::kFloat);
  a->h1_TD = w.TakeExtended("layer.h1", slot, t, d, p.qkv.ranks(), dtype);
  a->qkv_TQ = w.Take("layer.qkv", slot, {t, m.q_size() + 2 * m.kv_size()}, dtype);
  a->attn_TD = w.TakeExtended("layer.attn", slot, t, m.q_size(), p.o.ranks(), dtype);
  a->lse_HT = w.Take("layer.lse", slot, {m.num_attention_heads, t}, at::kFloat);
  a->mid_TD = w.Take("layer.mid", slot, {t, d}, dtype);
  a->rstd2_T = w.Take("layer.rstd2", slot, {t}, at::kFloat);
  a->h2_TD = w.TakeExtended("layer.h2", slot, t, d, p.gate_up.ranks(), dtype);
  a->gate_up_T2F = w.TakeExtended("layer.gate_up", slot, t, 2 * f, p.gate_up.ranks(), dtype);
  a->act_TF = w.TakeExtended("layer.act", slot, t, f, p.down.ranks(), dtype);
}

at::Tensor AsHeads(const format::ModelConfig& m, const Extended& x_TD) {
  const at::Tensor x = x_TD.main();
  return x.as_strided({x.size(0), m.num_attention_heads, m.head_dim}, {x.stride(0), m.head_dim, 1});
}

}  // namespace

int64_t ScratchElements(const BaseModel& base, const lora::Adapter& adapter) {
  int64_t largest = 0;
  for (size_t i = 0; i < base.layers.size(); ++i) {
    const LayerWeights& w = base.layers[i];
    const FrozenLinear* linears[lora::kGroups] = {&w.qkv, &w.o, &w.gate_up, &w.down};
    for (int g = 0; g < lora::kGroups; ++g) {
      const int64_t ranks = adapter.group(static_cast<int64_t>(i), static_cast<GroupKind>(g)).ranks();
      largest = std::max(largest, linears[g]->ScratchElements(ranks));
    }
  }
  return largest;
}

int64_t ResidualSpare(const lora::Adapter& adapter) {
  return std::max(adapter.group(0, GroupKind::kO).ranks(), adapter.group(0, GroupKind::kDown).ranks());
}

void LayerForward(const PassContext& pass, int64_t layer, int64_t slot, LayerActivations* a,
                  const at::Tensor& out_TD) {
  const format::ModelConfig& m = pass.base->config;
  const LayerWeights& weights = pass.base->layers[layer];
  const LayerProjections project(pass, layer);
  const DeviceBatch& b = *pass.batch;
  TakeActivations(pass, project, slot, a);
  at::Tensor delta_TD =
      pass.workspace->Take("layer_output", 0, a->x_TD.sizes(), a->x_TD.scalar_type());

  at::Tensor h1_TD = a->h1_TD.main();
  kernels::RmsNormForward(a->x_TD, weights.input_norm_D, m.rms_norm_eps, h1_TD, a->rstd1_T);
  project.qkv.Forward(a->h1_TD, a->qkv_TQ);
  Heads heads(m, a->qkv_TQ);
  kernels::RopeInPlace(heads.q_THE, b.position_ids_T, pass.base->inv_freq, +1);
  kernels::RopeInPlace(heads.k_TKE, b.position_ids_T, pass.base->inv_freq, +1);
  at::Tensor attn_THE = AsHeads(m, a->attn_TD);
  kernels::VarlenAttentionForward(heads.q_THE, heads.k_TKE, heads.v_TKE, b.cu_seqlens,
                                  b.cu_seqlens_host, b.max_seqlen, AttentionScale(m), attn_THE,
                                  a->lse_HT, pass.deterministic);
  project.o.Forward(a->attn_TD, delta_TD);

  at::Tensor h2_TD = a->h2_TD.main();
  kernels::AddRmsNormForward(a->x_TD, delta_TD, weights.post_norm_D, m.rms_norm_eps, a->mid_TD,
                             h2_TD, a->rstd2_T);
  project.gate_up.Forward(a->h2_TD, a->gate_up_T2F.main());
  at::Tensor act_TF = a->act_TF.main();
  kernels::SwigluForward(a->gate_up_T2F.main(), act_TF);
  if (!out_TD.defined()) return project.down.Forward(a->act_TF, {});
  project.down.Forward(a->act_TF, delta_TD);
  at::Tensor out = out_TD;
  at::add_out(out, a->mid_TD, delta_TD);
}

void LayerBackward(const PassContext& pass, int64_t layer, LayerActivations* a,
                   bool need_input_gradient, const Extended& dx_TD) {
  const format::ModelConfig& m = pass.base->config;
  const LayerWeights& weights = pass.base->layers[layer];
  const LayerProjections project(pass, layer);
  const DeviceBatch& b = *pass.batch;
  at::Tensor dx = dx_TD.main();
  const at::ScalarType dtype = dx.scalar_type();
  Workspace& w = *pass.workspace;
  at::Tensor dact_TF = w.Take("backward.act", 0, {b.tokens, m.intermediate_size}, dtype);
  at::Tensor dh_TD = w.Take("backward.h", 0, dx.sizes(), dtype);
  at::Tensor dattn_THE =
      w.Take("backward.attn", 0, {b.tokens, m.num_attention_heads, m.head_dim}, dtype);
  const Extended dqkv_TQ = w.TakeExtended("backward.qkv", 0, b.tokens, a->qkv_TQ.size(1),
                                          project.qkv.ranks(), dtype);

  project.down.Backward(dx_TD, a->act_TF, dact_TF);
  at::Tensor dgate_up_T2F = a->gate_up_T2F.main();
  kernels::SwigluBackward(dact_TF, a->gate_up_T2F.main(), dgate_up_T2F);
  project.gate_up.Backward(a->gate_up_T2F, a->h2_TD, dh_TD);
  kernels::RmsNormBackward(dh_TD, a->mid_TD, weights.post_norm_D, a->rstd2_T, /*accumulate=*/true,
                           dx);

  project.o.Backward(dx_TD, a->attn_TD, dattn_THE.view({b.tokens, m.q_size()}));
  const Heads heads(m, a->qkv_TQ);
  Heads d(m, dqkv_TQ.main());
  kernels::VarlenAttentionBackward(dattn_THE, heads.q_THE, heads.k_TKE, heads.v_TKE,
                                   AsHeads(m, a->attn_TD), a->lse_HT, b.cu_seqlens,
                                   b.cu_seqlens_host, b.max_seqlen, AttentionScale(m), d.q_THE,
                                   d.k_TKE, d.v_TKE, pass.deterministic);
  kernels::RopeInPlace(d.q_THE, b.position_ids_T, pass.base->inv_freq, -1);
  kernels::RopeInPlace(d.k_TKE, b.position_ids_T, pass.base->inv_freq, -1);
  project.qkv.Backward(dqkv_TQ, a->h1_TD, need_input_gradient ? dh_TD : at::Tensor());
  if (!need_input_gradient) return;
  kernels::RmsNormBackward(dh_TD, a->x_TD, weights.input_norm_D, a->rstd1_T, /*accumulate=*/true,
                           dx);
}

}  // namespace finetuned::model
