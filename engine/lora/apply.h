// Forward and backward of the adapters of one fused linear.
// Legend: T tokens, I inputs, O outputs (of the whole group), G sum of the group's ranks.
//
// Without dropout over a dequantized base, adapters ride on the frozen products: see
// kernels/low_rank_border.h. Otherwise they are products of their own, added to what the frozen weight gave.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/lora/adapter.h"
#include "kernels/nf4_gemm.h"
#include "kernels/swiglu.h"

namespace finetuned::lora {

// Which dropout masks a pass draws. Equal keys draw equal masks, so backward and recompute repeat
// what the forward did.
struct DropoutKey {
  double p = 0;       // 0: no dropout (evaluation too)
  uint64_t seed = 0;
  uint64_t pass = 0;  // number of the micro-batch since the start of the run
  int64_t sites = 1;  // of the adapter: offset = pass * sites + site
  int64_t first_row = 0;  // of the batch: where the rows at hand begin
};

// A group without sites changes nothing in all of these.

// Writes the border of a dequantized weight [O + G, I + G]; with_a for the backward.
void ExtendWeight(const Group& group, double scaling, bool with_a, at::Tensor& extended);

// The group's part of a product with the stored weight; u_TG = x A^T.
kernels::LowRankTerm LowRankTermOf(const Group& group, double scaling, const at::Tensor& u_TG);

// Elements of `sums` below, float32; 0: none is needed.
int64_t GradientSums(const Group& group, const at::Tensor& dy_TO);

// Written: du_TG = scaling * dy B per site. Added: the group's dB. u_TG = x A^T.
void UpBackward(const Group& group, double scaling, const at::Tensor& dy_TO, const at::Tensor& u_TG,
                const at::Tensor& sums, at::Tensor& du_TG);

// The same of gate and up with the gate's backward before it: gate_up_T2F becomes dy (kernels/gate_low_rank.h).
// GateGradientSums: elements of `sums`; 0 where no kernel takes both at once, the gate has then its own backward.
int64_t GateGradientSums(const Group& group, const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F, const at::Tensor& u_TG);
void GateUpBackward(const Group& group, double scaling, kernels::Gate gate, const at::Tensor& dh_TF, const at::Tensor& u_TG,
                    const at::Tensor& sums, at::Tensor& gate_up_T2F, at::Tensor& du_TG);

// Adds to the group's dA what x_TI gives without dropout.
void AddDownGradients(const Group& group, const at::Tensor& du_TG, const at::Tensor& x_TI);

// out_TI = x_TI with the masks of a site; x_TI may be out_TI. Its own backward.
void Drop(const Site& site, const at::Tensor& x_TI, const DropoutKey& key, at::Tensor& out_TI);

// u_TG = dropout(x) A^T per site, kept for the backward. scratch_TI: memory for dropped inputs, needed
// when key.p > 0 only.
void Down(const Group& group, const at::Tensor& x_TI, const DropoutKey& key, at::Tensor& scratch_TI,
          at::Tensor& u_TG);

// y_TO += scaling * u B^T in each site's columns.
void AddUp(const Group& group, double scaling, const at::Tensor& u_TG, const at::Tensor& y_TO);

// Adds to the group's dA, and, when dx_TI is defined, the gradient of the input to dx_TI. du_TG of UpBackward;
// x_TI, key, scratch_TI as in the forward.
void DownBackward(const Group& group, const at::Tensor& du_TG, const at::Tensor& x_TI, const DropoutKey& key,
                  at::Tensor& scratch_TI, at::Tensor& dx_TI);

}  // namespace finetuned::lora
