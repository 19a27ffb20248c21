#include "engine/model/layer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/model/block_parts.h"
#include "engine/model/projection.h"
#include "kernels/shared_rows.h"
#include "kernels/varlen_attention.h"

namespace finetuned::model {
namespace {

using lora::GroupKind;

// Rows [first, first + rows) of the batch. Buffers of all rows have them there, buffers of a piece at their front.
struct Piece {
  int64_t first, rows;
  at::Tensor Of(const at::Tensor& all) const { return all.narrow(0, first, rows); }
  Extended Of(const Extended& all) const { return all.Rows(first, rows); }
  at::Tensor Front(const at::Tensor& buffer) const { return buffer.narrow(0, 0, rows); }
  Extended Front(const Extended& buffer) const { return buffer.Rows(0, rows); }
};

// q, k, v as [T, heads, E] views of the fused buffer; q and k may lie in one of their own.
struct Heads {
  at::Tensor q_THE, k_TKE, v_TKE;
  Heads(const format::ModelConfig& m, const at::Tensor& qkv_TQ) : Heads(m, qkv_TQ, qkv_TQ) {}
  Heads(const format::ModelConfig& m, const at::Tensor& qk, const at::Tensor& qkv_TQ) {
    const int64_t e = m.head_dim, q = m.q_size(), kv = m.kv_size();
    const auto take = [&](const at::Tensor& from, int64_t first, int64_t columns, int64_t heads) {
      return from.narrow(1, first, columns).unflatten(1, {heads, e});
    };
    q_THE = take(qk, 0, q, m.num_attention_heads);
    k_TKE = take(qk, q, kv, m.num_key_value_heads);
    v_TKE = take(qkv_TQ, q + kv, kv, m.num_key_value_heads);
  }
};

// What attention reads beside q: views of the fused buffer, or copies where documents share a prefix.
struct KeysAndValues {
  at::Tensor k_GKE, v_GKE;
  const kernels::KeyDocuments* documents = nullptr;
};

at::Tensor AsHeads(const format::ModelConfig& m, const Extended& x_TD) {
  const at::Tensor x = x_TD.main();
  return x.as_strided({x.size(0), m.num_attention_heads, m.head_dim}, {x.stride(0), m.head_dim, 1});
}

// Elements of the dequantized weights of a layer.
struct ScratchSizes {
  int64_t qkv = 0, o = 0, gate_up = 0, down = 0;

  ScratchSizes(const LayerWeights& w, const lora::Adapter* adapter, int64_t layer) {
    const auto of = [&](const FrozenLinear& linear, GroupKind kind) {
      return linear.ScratchElements(adapter == nullptr ? 0 : adapter->group(layer, kind).ranks());
    };
    qkv = of(w.qkv, GroupKind::kQkv);
    o = of(w.o, GroupKind::kO);
    gate_up = of(w.gate_up, GroupKind::kGateUp);
    down = of(w.down, GroupKind::kDown);
  }
  int64_t first() const { return std::max(qkv, gate_up); }  // never in use together
  int64_t largest() const { return std::max({qkv, o, gate_up, down}); }
  int64_t sum() const { return qkv + o + gate_up + down; }
};

// Where a layer's weights are dequantized: one place that each takes in turn; or, when pieces come back to them, one
// for qkv and gate_up and one each for down and o; or one for each that stays.
struct WeightPlaces {
  std::vector<WeightPlace> places;
  WeightPlace *qkv, *o, *gate_up, *down;

  WeightPlaces(const PassContext& pass, int64_t layer) {
    if (pass.standing != nullptr && layer < static_cast<int64_t>(pass.standing->layers.size())) {
      LayerPlaces& of_layer = pass.standing->layers[layer];
      qkv = &of_layer[static_cast<int>(GroupKind::kQkv)];
      o = &of_layer[static_cast<int>(GroupKind::kO)];
      gate_up = &of_layer[static_cast<int>(GroupKind::kGateUp)];
      down = &of_layer[static_cast<int>(GroupKind::kDown)];
      return;
    }
    if (!pass.recomputes) {
      places = {{pass.scratch}};
      qkv = o = gate_up = down = &places[0];
      return;
    }
    const ScratchSizes s(pass.base->layers[layer], pass.adapter, layer);
    const int64_t starts[3] = {0, s.first(), s.first() + s.down}, sizes[3] = {s.first(), s.down, s.o};
    for (int i = 0; i < 3; ++i) places.push_back({pass.scratch.narrow(0, starts[i], sizes[i])});
    qkv = gate_up = &places[0];
    down = &places[1];
    o = &places[2];
  }
  WeightPlaces(const WeightPlaces&) = delete;
  WeightPlaces& operator=(const WeightPlaces&) = delete;
};

// One layer in one pass, as the steps of forward and backward.
class LayerWork {
 public:
  LayerWork(const PassContext& pass, int64_t layer, Keep keep, const at::Tensor& x_TD)
      : pass_(pass),
        m_(pass.base->config),
        weights_(pass.base->layers[layer]),
        batch_(*pass.batch),
        layer_(layer),
        dtype_(x_TD.scalar_type()),
        piece_rows_(keep == Keep::kAll ? batch_.tokens : std::min(pass.piece_rows, batch_.tokens)),
        places_(pass, layer),
        qkv_(pass, weights_.qkv, layer, GroupKind::kQkv, places_.qkv),
        o_(pass, weights_.o, layer, GroupKind::kO, places_.o),
        gate_up_(pass, weights_.gate_up, layer, GroupKind::kGateUp, places_.gate_up),
        down_(pass, weights_.down, layer, GroupKind::kDown, places_.down),
        x_TD_(x_TD) {
    TakeOfAllRows(keep == Keep::kNothing ? 0 : layer);
    TakeOfPiece(keep == Keep::kAll ? layer : 0);
  }

  bool parallel() const { return m_.block == format::BlockKind::kParallel; }
  bool one_piece() const { return piece_rows_ == batch_.tokens; }

  template <typename Body>
  void ForEachPiece(const Body& body) {
    for (int64_t first = 0; first < batch_.tokens; first += piece_rows_) {
      body(Piece{first, std::min(piece_rows_, batch_.tokens - first)});
    }
  }

  // Input to output of attention, all rows.
  void ForwardAttention();
  // h1 and u of qkv; project: q, k, v too.
  void ForwardQkv(Piece p, bool project);
  // Attention's output to the MLP's, added to the residual stream. out_TD undefined: only what the backward reads.
  void ForwardMlp(Piece p, const at::Tensor& out_TD);
  void BackwardMlp(Piece p, const Extended& dx_TD);
  // Gradient of attention's output from that of the residual stream.
  void BackwardO(Piece p, const Extended& dx_TD);
  void BackwardAttention();
  void BackwardQkv(Piece p, bool need_input_gradient, const Extended& dx_TD);

 private:
  void TakeOfAllRows(int64_t slot);
  void TakeOfPiece(int64_t slot);
  at::Tensor Take(const char* name, int64_t rows, int64_t columns) const {
    return pass_.workspace->Take(name, 0, {rows, columns}, dtype_);
  }
  Extended DQkv() const {
    return pass_.workspace->TakeExtended("backward.qkv", 0, batch_.tokens, qkv_TQ_.size(1), qkv_.ranks(), dtype_);
  }
  KeysAndValues Keys(const Heads& heads) const;
  // The gradient of what attention or MLP add: dx itself, or, where that is normalized first, through the norm.
  Extended DAdded(Piece p, const Extended& dx_TD, const at::Tensor& added_PD, const at::Tensor& w_D,
                  const at::Tensor& rstd_P) const;
  // Attention's output to the MLP's input.
  void ForwardMiddle(Piece p);
  // Of the MLP's norm: the layer's own input where attention and MLP stand side by side.
  at::Tensor MlpNormInput(Piece p) const { return parallel() ? p.Of(x_TD_) : p.Front(mid_PD_); }
  const at::Tensor& MlpNormWeight() const { return parallel() ? weights_.input_norm_D : weights_.mlp_norm_D; }
  bool has_qk_norm() const { return m_.qk_norm != format::QkNorm::kNone; }
  // What attention reads.
  Heads AttentionHeads() const { return Heads(m_, has_qk_norm() ? qk_TQ_ : qkv_TQ_, qkv_TQ_); }
  at::Tensor DAttention() const { return Take("backward.attn", batch_.tokens, m_.q_size()); }

  const PassContext& pass_;
  const format::ModelConfig& m_;
  const LayerWeights& weights_;
  const DeviceBatch& batch_;
  const int64_t layer_;
  const at::ScalarType dtype_;
  const int64_t piece_rows_;
  WeightPlaces places_;
  Projection qkv_, o_, gate_up_, down_;
  // Of all rows.
  const at::Tensor x_TD_;
  at::Tensor qkv_TQ_;  // q and k rotated, unless they are normalized:
  at::Tensor qk_TQ_;   // q and k normalized and rotated
  Extended attn_TD_;
  at::Tensor lse_HT_;
  // Of a piece. Inputs of linears have u = x A^T behind them.
  at::Tensor rstd1_P_, rstd2_P_;
  Extended h1_PD_, h2_PD_, act_PF_;
  at::Tensor mid_PD_;       // residual stream after attention
  at::Tensor attn_out_PD_, mlp_out_PD_, rstd3_P_, rstd4_P_;  // what is added, where it is normalized first
  Extended gate_up_P2F_;    // overwritten by the backward, which puts du behind it
};

void LayerWork::TakeOfAllRows(int64_t slot) {
  Workspace& w = *pass_.workspace;
  const int64_t t = batch_.tokens;
  qkv_TQ_ = w.Take("layer.qkv", slot, {t, m_.q_size() + 2 * m_.kv_size()}, dtype_);
  if (has_qk_norm()) qk_TQ_ = w.Take("layer.qk", slot, {t, m_.q_size() + m_.kv_size()}, dtype_);
  attn_TD_ = w.TakeExtended("layer.attn", slot, t, m_.q_size(), o_.ranks(), dtype_);
  lse_HT_ = w.Take("layer.lse", slot, {m_.num_attention_heads, t}, at::kFloat);
}

void LayerWork::TakeOfPiece(int64_t slot) {
  Workspace& w = *pass_.workspace;
  const int64_t p = piece_rows_, d = m_.hidden_size, f = m_.intermediate_size;
  rstd1_P_ = w.Take("layer.rstd1", slot, {p}, at::kFloat);
  h1_PD_ = w.TakeExtended("layer.h1", slot, p, d, qkv_.ranks(), dtype_);
  mid_PD_ = w.Take("layer.mid", slot, {p, d}, dtype_);
  rstd2_P_ = w.Take("layer.rstd2", slot, {p}, at::kFloat);
  h2_PD_ = w.TakeExtended("layer.h2", slot, p, d, gate_up_.ranks(), dtype_);
  gate_up_P2F_ = w.TakeExtended("layer.gate_up", slot, p, 2 * f, gate_up_.ranks(), dtype_);
  act_PF_ = w.TakeExtended("layer.act", slot, p, f, down_.ranks(), dtype_);
  if (!m_.has_post_norms()) return;
  attn_out_PD_ = w.Take("layer.attn_out", slot, {p, d}, dtype_);
  mlp_out_PD_ = w.Take("layer.mlp_out", slot, {p, d}, dtype_);
  rstd3_P_ = w.Take("layer.rstd3", slot, {p}, at::kFloat);
  rstd4_P_ = w.Take("layer.rstd4", slot, {p}, at::kFloat);
}

void LayerWork::ForwardQkv(Piece p, bool project) {
  const Extended h1 = p.Front(h1_PD_);
  at::Tensor h1_main = h1.main(), rstd = p.Front(rstd1_P_);
  NormForward(m_, p.Of(x_TD_), weights_.input_norm_D, h1_main, rstd);
  qkv_.Forward(h1, project ? p.Of(qkv_TQ_) : at::Tensor(), p.first);
}

void LayerWork::ForwardAttention() {
  ForEachPiece([&](Piece p) { ForwardQkv(p, /*project=*/true); });
  Heads heads = AttentionHeads();
  if (has_qk_norm()) {
    const Heads raw(m_, qkv_TQ_);
    HeadNormForward(m_, raw.q_THE, weights_.q_norm, heads.q_THE);
    HeadNormForward(m_, raw.k_TKE, weights_.k_norm, heads.k_TKE);
  }
  Rotate(pass_, layer_, heads.q_THE, +1);
  Rotate(pass_, layer_, heads.k_TKE, +1);
  // Attention and o are linear in v: a factor of what they add rides on it.
  if (m_.residual_multiplier != 1) heads.v_TKE.mul_(m_.residual_multiplier);
  at::Tensor attn_THE = AsHeads(m_, attn_TD_);
  if (pass_.attention != nullptr) {
    return pass_.attention->Forward(layer_, heads.q_THE, heads.k_TKE, heads.v_TKE, attn_THE, lse_HT_);
  }
  const KeysAndValues keys = Keys(heads);
  kernels::VarlenAttentionForward(heads.q_THE, keys.k_GKE, keys.v_GKE, batch_.cu_seqlens,
                                  batch_.cu_seqlens_host, batch_.max_seqlen, Scores(m_, layer_), attn_THE,
                                  lse_HT_, pass_.deterministic, keys.documents);
}

KeysAndValues LayerWork::Keys(const Heads& heads) const {
  if (!batch_.shares_prefixes) return {heads.k_TKE, heads.v_TKE};
  const int64_t kv = m_.kv_size();
  const at::Tensor copies_GC = Take("attention.keys", batch_.key_rows_G.size(0), 2 * kv);
  const auto copy = [&](const at::Tensor& x_TKE, int64_t first) {
    at::Tensor copies = copies_GC.narrow(1, first, kv);
    kernels::CopySharedRows(x_TKE.flatten(1), batch_.key_rows_G, copies);
    return copies.unflatten(1, {m_.num_key_value_heads, m_.head_dim});
  };
  return {copy(heads.k_TKE, 0), copy(heads.v_TKE, kv), &batch_.keys};
}

void LayerWork::ForwardMiddle(Piece p) {
  const at::Tensor x = p.Of(x_TD_);
  const Extended attn = p.Of(attn_TD_);
  at::Tensor mid = p.Front(mid_PD_), h2_main = p.Front(h2_PD_).main(), rstd = p.Front(rstd2_P_);
  if (parallel() || (!m_.has_post_norms() && o_.AddsInProduct(p.rows))) {
    o_.ForwardAdd(attn, x, mid, p.first);
    return NormForward(m_, MlpNormInput(p), MlpNormWeight(), h2_main, rstd);
  }
  if (m_.has_post_norms()) {
    at::Tensor added = p.Front(attn_out_PD_), rstd3 = p.Front(rstd3_P_);
    o_.Forward(attn, added, p.first);
    NormForward(m_, added, weights_.attention_post_norm_D, mid, rstd3);
  } else {
    o_.Forward(attn, mid, p.first);
  }
  AddNormForward(m_, x, mid, weights_.mlp_norm_D, mid, h2_main, rstd);
}

void LayerWork::ForwardMlp(Piece p, const at::Tensor& out_TD) {
  const Extended gate_up = p.Front(gate_up_P2F_), act = p.Front(act_PF_);
  at::Tensor act_main = act.main(), out = out_TD.defined() ? p.Of(out_TD) : at::Tensor();
  ForwardMiddle(p);
  gate_up_.Forward(p.Front(h2_PD_), gate_up.main(), p.first);
  GateForward(m_, gate_up.main(), act_main);
  if (m_.residual_multiplier != 1) act_main.mul_(m_.residual_multiplier);
  if (m_.has_post_norms()) {
    at::Tensor mlp_out = p.Front(mlp_out_PD_), rstd4 = p.Front(rstd4_P_);
    // The backward, which asks for no output, has not begun to use its buffer.
    at::Tensor added = out.defined() ? out : p.Front(Take("backward.h", piece_rows_, m_.hidden_size));
    down_.Forward(act, mlp_out, p.first);
    NormForward(m_, mlp_out, weights_.mlp_post_norm_D, added, rstd4);
    if (out.defined()) out.add_(p.Front(mid_PD_));
  } else if (out.defined()) {
    down_.ForwardAdd(act, p.Front(mid_PD_), out, p.first);
  } else {
    down_.Forward(act, {}, p.first);
  }
}

Extended LayerWork::DAdded(Piece p, const Extended& dx_TD, const at::Tensor& added_PD, const at::Tensor& w_D,
                           const at::Tensor& rstd_P) const {
  if (!m_.has_post_norms()) return p.Of(dx_TD);
  const Extended d = p.Front(pass_.workspace->TakeExtended("backward.added", 0, piece_rows_, m_.hidden_size,
                                                           std::max(o_.ranks(), down_.ranks()), dtype_));
  at::Tensor d_main = d.main();
  NormBackward(m_, p.Of(dx_TD).main(), p.Front(added_PD), w_D, p.Front(rstd_P), /*accumulate=*/false, d_main);
  return d;
}

void LayerWork::BackwardMlp(Piece p, const Extended& dx_TD) {
  const Extended gate_up = p.Front(gate_up_P2F_);
  at::Tensor dact = p.Front(Take("backward.act", piece_rows_, m_.intermediate_size));
  const at::Tensor dh = p.Front(Take("backward.h", piece_rows_, m_.hidden_size));
  at::Tensor dx_main = p.Of(dx_TD).main();
  down_.Backward(DAdded(p, dx_TD, mlp_out_PD_, weights_.mlp_post_norm_D, rstd4_P_), p.Front(act_PF_), dact, p.first);
  if (m_.residual_multiplier != 1) dact.mul_(m_.residual_multiplier);
  gate_up_.BackwardThroughGate(dact, gate_up, p.Front(h2_PD_), dh, p.first);
  NormBackward(m_, dh, MlpNormInput(p), MlpNormWeight(), p.Front(rstd2_P_), /*accumulate=*/true, dx_main);
}

void LayerWork::BackwardO(Piece p, const Extended& dx_TD) {
  o_.Backward(DAdded(p, dx_TD, attn_out_PD_, weights_.attention_post_norm_D, rstd3_P_), p.Of(attn_TD_),
              p.Of(DAttention()), p.first);
}

void LayerWork::BackwardAttention() {
  const Heads heads = AttentionHeads();
  Heads d(m_, DQkv().main());
  const at::Tensor dattn_THE = DAttention().unflatten(1, {m_.num_attention_heads, m_.head_dim});
  const KeysAndValues keys = Keys(heads);
  // Of copies attention's own, to be summed up.
  at::Tensor dk = batch_.shares_prefixes ? at::Tensor() : d.k_TKE, dv = batch_.shares_prefixes ? at::Tensor() : d.v_TKE;
  kernels::VarlenAttentionBackward(dattn_THE, heads.q_THE, keys.k_GKE, keys.v_GKE, AsHeads(m_, attn_TD_),
                                   lse_HT_, batch_.cu_seqlens, batch_.cu_seqlens_host, batch_.max_seqlen,
                                   Scores(m_, layer_), d.q_THE, dk, dv, pass_.deterministic, keys.documents);
  if (batch_.shares_prefixes) {
    for (const auto& [copies, rows] : {std::pair(dk, d.k_TKE), std::pair(dv, d.v_TKE)}) {
      at::Tensor sums = rows.flatten(1);
      kernels::SumSharedRows(copies.flatten(1), batch_.key_offsets_T1, batch_.key_copies_G, sums);
    }
  }
  if (m_.residual_multiplier != 1) d.v_TKE.mul_(m_.residual_multiplier);
  Rotate(pass_, layer_, d.q_THE, -1);
  Rotate(pass_, layer_, d.k_TKE, -1);
  if (!has_qk_norm()) return;
  const Heads raw(m_, qkv_TQ_);
  HeadNormBackward(m_, raw.q_THE, weights_.q_norm, d.q_THE);
  HeadNormBackward(m_, raw.k_TKE, weights_.k_norm, d.k_TKE);
}

void LayerWork::BackwardQkv(Piece p, bool need_input_gradient, const Extended& dx_TD) {
  const at::Tensor dh = p.Front(Take("backward.h", piece_rows_, m_.hidden_size));
  qkv_.Backward(p.Of(DQkv()), p.Front(h1_PD_), need_input_gradient ? dh : at::Tensor(), p.first);
  if (!need_input_gradient) return;
  at::Tensor dx = p.Of(dx_TD).main();
  NormBackward(m_, dh, p.Of(x_TD_), weights_.input_norm_D, p.Front(rstd1_P_), /*accumulate=*/true, dx);
}

}  // namespace

int64_t ScratchElements(const BaseModel& base, const lora::Adapter* adapter, bool recomputes) {
  int64_t most = 0;
  for (size_t i = 0; i < base.layers.size(); ++i) {
    const ScratchSizes s(base.layers[i], adapter, static_cast<int64_t>(i));
    most = std::max(most, recomputes ? s.first() + s.down + s.o : s.largest());
  }
  return most;
}

int64_t StandingElements(const BaseModel& base, const lora::Adapter& adapter, int64_t layer) {
  return ScratchSizes(base.layers[layer], &adapter, layer).sum();
}

LayerPlaces PlaceStandingWeights(const BaseModel& base, const lora::Adapter& adapter, int64_t layer,
                                 const at::Tensor& memory) {
  const ScratchSizes s(base.layers[layer], &adapter, layer);
  const int64_t sizes[lora::kGroups] = {s.qkv, s.o, s.gate_up, s.down};
  LayerPlaces places;
  int64_t first = 0;
  for (int g = 0; g < lora::kGroups; ++g) {
    places[g].memory = memory.narrow(0, first, sizes[g]);
    places[g].border = adapter.group(layer, static_cast<GroupKind>(g)).ranks();
    first += sizes[g];
  }
  return places;
}

int64_t ResidualSpare(const lora::Adapter& adapter) {
  int64_t most = 0;
  for (int64_t i = 0; i < adapter.layers(); ++i) {
    most = std::max({most, adapter.group(i, GroupKind::kO).ranks(), adapter.group(i, GroupKind::kDown).ranks()});
  }
  return most;
}

void LayerForward(const PassContext& pass, int64_t layer, Keep keep, const at::Tensor& x_TD,
                  const at::Tensor& out_TD) {
  LayerWork work(pass, layer, keep, x_TD);
  work.ForwardAttention();
  work.ForEachPiece([&](Piece p) { work.ForwardMlp(p, out_TD); });
}

void LayerBackward(const PassContext& pass, int64_t layer, Keep keep, const at::Tensor& x_TD,
                   bool need_input_gradient, const Extended& dx_TD) {
  LayerWork work(pass, layer, keep, x_TD);
  if (keep == Keep::kNothing) work.ForwardAttention();
  work.ForEachPiece([&](Piece p) {
    if (keep != Keep::kAll) work.ForwardMlp(p, /*out_TD=*/{});
    if (work.parallel()) work.BackwardO(p, dx_TD);  // before the MLP adds to the gradient
    work.BackwardMlp(p, dx_TD);
    if (!work.parallel()) work.BackwardO(p, dx_TD);
  });
  work.BackwardAttention();
  const bool h1_is_there = keep == Keep::kAll || (keep == Keep::kNothing && work.one_piece());
  work.ForEachPiece([&](Piece p) {
    if (!h1_is_there) work.ForwardQkv(p, /*project=*/false);
    work.BackwardQkv(p, need_input_gradient, dx_TD);
  });
}

}  // namespace finetuned::model
