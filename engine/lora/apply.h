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

// Adds to the group's dA and dB, and, when dx_TI is defined, the gradient of the input to dx_TI.
// sums, du_TG: scratch. x_TI, u_TG, key as in the forward.
void AddBackward(const Group& group, double scaling, const at::Tensor& dy_TO,
                 const at::Tensor& x_TI, const at::Tensor& u_TG, const DropoutKey& key,
                 const at::Tensor& sums, at::Tensor& scratch_TI, at::Tensor& du_TG, at::Tensor& dx_TI);

}  // namespace finetuned::lora
