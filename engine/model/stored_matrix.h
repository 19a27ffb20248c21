// A frozen matrix as device memory holds it. Legend: I inputs, O outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <variant>

#include "engine/plan/memory_plan.h"
#include "kernels/nf4.h"
#include "kernels/row_codes.h"

namespace finetuned::model {

// 4-bit codes (NF4, FP4), 8-bit codes with a scale per row (INT8, FP8), or the numbers themselves.
using StoredMatrix = std::variant<kernels::Nf4Tensor, kernels::RowCodes, at::Tensor>;

// weight_OI in `format`; kCompute: in `compute`. double_quant: of 4-bit formats, the scales too. On weight_OI's device.
StoredMatrix StoreMatrix(const at::Tensor& weight_OI, plan::BaseFormat format, bool double_quant,
                         at::ScalarType compute);

int64_t StoredBytes(const StoredMatrix& matrix);
int64_t StoredRows(const StoredMatrix& matrix);
bool IsDense(const StoredMatrix& matrix);

// out_OI: float32 or bfloat16, written; rows may lie further apart than I.
void Dequantize(const StoredMatrix& matrix, at::Tensor& out_OI);

}  // namespace finetuned::model
