// What the ops that end in low_rank_gradients.h's sums share: checks and parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/low_rank_gradients.h"
#include "kernels/low_rank_gradients_params.h"

namespace finetuned::kernels {

// Checks shapes, dtypes and devices on behalf of op; the parameters without parts and scratch.
LowRankGradientsParams CheckLowRankGradients(const char* op, const at::Tensor& dy_TO, const at::Tensor& u_TG,
                                             const std::vector<LowRankGradientPart>& parts, double scale,
                                             int64_t splits, const at::Tensor& du_TG);

// Whether rows of u can be read 16 bytes at a time.
bool LowRankInputsFused(const at::Tensor& u_TG);

// Adds the parts, in groups of at most group_columns columns, and where in scratch they are summed; throws where it is
// too small.
void AddLowRankParts(const char* op, const std::vector<LowRankGradientPart>& parts, int64_t group_columns,
                     const at::Tensor& scratch, LowRankGradientsParams* p);

}  // namespace finetuned::kernels
