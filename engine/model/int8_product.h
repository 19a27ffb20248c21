// The product of LLM.int8: inputs are rounded to INT8 row by row, but for columns that hold large numbers (outliers), which
// are multiplied in the compute type with the dequantized columns of the weight.
// Legend: T rows, I inputs, O outputs of all parts, K outlier columns at most.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "engine/model/workspace.h"
#include "kernels/row_codes.h"

namespace finetuned::model {

// Whether the product takes these sizes (kernels/codes8.h).
bool Int8ProductSupports(const std::vector<kernels::RowCodes>& parts, int64_t in);

// y_TO = x W^T; W: the parts, INT8, stacked by rows.
//   threshold  columns of x whose largest magnitude is at least this are outliers; of more than
//              plan::kInt8Outliers those with the largest. The others' row scales leave these columns out.
// x_TI, y_TO: the compute type, rows may lie further apart. Takes codes8.* and int8.* of the workspace. No host sync.
void Int8Product(const std::vector<kernels::RowCodes>& parts, const at::Tensor& x_TI, double threshold,
                 Workspace& workspace, at::Tensor& y_TO);

}  // namespace finetuned::model
