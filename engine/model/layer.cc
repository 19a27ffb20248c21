#include "engine/model/layer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/model/projection.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/shared_rows.h"
#include "kernels/swiglu.h"
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
  at::Tensor qkv_TQ_;  // q and k rotated
  Extended attn_TD_;
  at::Tensor lse_HT_;
  // Of a piece. Inputs of linears have u = x A^T behind them.
  at::Tensor rstd1_P_, rstd2_P_;
  Extended h1_PD_, h2_PD_, act_PF_;
  at::Tensor mid_PD_;       // residual stream after attention
  Extended gate_up_P2F_;    // overwritten by the backward, which puts du behind it
};

void LayerWork::TakeOfAllRows(int64_t slot) {
  Workspace& w = *pass_.workspace;
  const int64_t t = batch_.tokens;
  qkv_TQ_ = w.Take("layer.qkv", slot, {t, m_.q_size() + 2 * m_.kv_size()}, dtype_);
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
}

void LayerWork::ForwardQkv(Piece p, bool project) {
  const Extended h1 = p.Front(h1_PD_);
  at::Tensor h1_main = h1.main(), rstd = p.Front(rstd1_P_);
  kernels::RmsNormForward(p.Of(x_TD_), weights_.input_norm_D, m_.rms_norm_eps, h1_main, rstd);
  qkv_.Forward(h1, project ? p.Of(qkv_TQ_) : at::Tensor(), p.first);
}

void LayerWork::ForwardAttention() {
  ForEachPiece([&](Piece p) { ForwardQkv(p, /*project=*/true); });
  Heads heads(m_, qkv_TQ_);
  kernels::RopeInPlace(heads.q_THE, batch_.position_ids_T, pass_.base->inv_freq, +1);
  kernels::RopeInPlace(heads.k_TKE, batch_.position_ids_T, pass_.base->inv_freq, +1);
  at::Tensor attn_THE = AsHeads(m_, attn_TD_);
  if (pass_.attention != nullptr) {
    return pass_.attention->Forward(layer_, heads.q_THE, heads.k_TKE, heads.v_TKE, attn_THE, lse_HT_);
  }
  const KeysAndValues keys = Keys(heads);
  kernels::VarlenAttentionForward(heads.q_THE, keys.k_GKE, keys.v_GKE, batch_.cu_seqlens,
                                  batch_.cu_seqlens_host, batch_.max_seqlen, AttentionScale(m_), attn_THE,
                                  lse_HT_, pass_.deterministic, keys.documents);
}

KeysAndValues LayerWork::Keys(const Heads& heads) const {
  if (!batch_.shares_prefixes) return {heads.k_TKE, heads.v_TKE};
  const int64_t kv = m_.kv_size();
  at::Tensor copies_GC = Take("attention.keys", batch_.key_rows_G.size(0), 2 * kv);
  kernels::CopySharedRows(qkv_TQ_.narrow(1, m_.q_size(), 2 * kv), batch_.key_rows_G, copies_GC);
  const auto take = [&](int64_t first) {
    return copies_GC.narrow(1, first, kv).unflatten(1, {m_.num_key_value_heads, m_.head_dim});
  };
  return {take(0), take(kv), &batch_.keys};
}

void LayerWork::ForwardMlp(Piece p, const at::Tensor& out_TD) {
  const at::Tensor delta = p.Front(Take("layer_output", piece_rows_, m_.hidden_size));
  const Extended h2 = p.Front(h2_PD_), gate_up = p.Front(gate_up_P2F_), act = p.Front(act_PF_);
  at::Tensor mid = p.Front(mid_PD_), h2_main = h2.main(), act_main = act.main(), rstd = p.Front(rstd2_P_);
  o_.Forward(p.Of(attn_TD_), delta, p.first);
  kernels::AddRmsNormForward(p.Of(x_TD_), delta, weights_.post_norm_D, m_.rms_norm_eps, mid, h2_main, rstd);
  gate_up_.Forward(h2, gate_up.main(), p.first);
  kernels::SwigluForward(gate_up.main(), act_main);
  if (!out_TD.defined()) return down_.Forward(act, {}, p.first);
  down_.Forward(act, delta, p.first);
  at::Tensor out = p.Of(out_TD);
  at::add_out(out, mid, delta);
}

void LayerWork::BackwardMlp(Piece p, const Extended& dx_TD) {
  const Extended gate_up = p.Front(gate_up_P2F_), dx = p.Of(dx_TD);
  const at::Tensor dact = p.Front(Take("backward.act", piece_rows_, m_.intermediate_size));
  const at::Tensor dh = p.Front(Take("backward.h", piece_rows_, m_.hidden_size));
  at::Tensor dgate_up = gate_up.main(), dx_main = dx.main();
  down_.Backward(dx, p.Front(act_PF_), dact, p.first);
  kernels::SwigluBackward(dact, gate_up.main(), dgate_up);
  gate_up_.Backward(gate_up, p.Front(h2_PD_), dh, p.first);
  kernels::RmsNormBackward(dh, p.Front(mid_PD_), weights_.post_norm_D, p.Front(rstd2_P_),
                           /*accumulate=*/true, dx_main);
}

void LayerWork::BackwardO(Piece p, const Extended& dx_TD) {
  o_.Backward(p.Of(dx_TD), p.Of(attn_TD_), p.Of(DAttention()), p.first);
}

void LayerWork::BackwardAttention() {
  const Heads heads(m_, qkv_TQ_);
  Heads d(m_, DQkv().main());
  const at::Tensor dattn_THE = DAttention().unflatten(1, {m_.num_attention_heads, m_.head_dim});
  const KeysAndValues keys = Keys(heads);
  // Of copies attention's own, to be summed up.
  at::Tensor dk = batch_.shares_prefixes ? at::Tensor() : d.k_TKE, dv = batch_.shares_prefixes ? at::Tensor() : d.v_TKE;
  kernels::VarlenAttentionBackward(dattn_THE, heads.q_THE, keys.k_GKE, keys.v_GKE, AsHeads(m_, attn_TD_),
                                   lse_HT_, batch_.cu_seqlens, batch_.cu_seqlens_host, batch_.max_seqlen,
                                   AttentionScale(m_), d.q_THE, dk, dv, pass_.deterministic, keys.documents);
  if (batch_.shares_prefixes) {
    for (const auto& [copies, rows] : {std::pair(dk, d.k_TKE), std::pair(dv, d.v_TKE)}) {
      at::Tensor sums = rows.flatten(1);
      kernels::SumSharedRows(copies.flatten(1), batch_.key_offsets_T1, batch_.key_copies_G, sums);
    }
  }
  kernels::RopeInPlace(d.q_THE, batch_.position_ids_T, pass_.base->inv_freq, -1);
  kernels::RopeInPlace(d.k_TKE, batch_.position_ids_T, pass_.base->inv_freq, -1);
}

void LayerWork::BackwardQkv(Piece p, bool need_input_gradient, const Extended& dx_TD) {
  const at::Tensor dh = p.Front(Take("backward.h", piece_rows_, m_.hidden_size));
  qkv_.Backward(p.Of(DQkv()), p.Front(h1_PD_), need_input_gradient ? dh : at::Tensor(), p.first);
  if (!need_input_gradient) return;
  at::Tensor dx = p.Of(dx_TD).main();
  kernels::RmsNormBackward(dh, p.Of(x_TD_), weights_.input_norm_D, p.Front(rstd1_P_), /*accumulate=*/true, dx);
}

}  // namespace

double AttentionScale(const format::ModelConfig& m) {
  return 1.0 / std::sqrt(static_cast<double>(m.head_dim));
}

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
    work.BackwardMlp(p, dx_TD);
    work.BackwardO(p, dx_TD);
  });
  work.BackwardAttention();
  const bool h1_is_there = keep == Keep::kAll || (keep == Keep::kNothing && work.one_piece());
  work.ForEachPiece([&](Piece p) {
    if (!h1_is_there) work.ForwardQkv(p, /*project=*/false);
    work.BackwardQkv(p, need_input_gradient, dx_TD);
  });
}

}  // namespace finetuned::model
