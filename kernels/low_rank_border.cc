#include "kernels/low_rank_border.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/low_rank_border_params.h"

namespace finetuned::kernels {
namespace {

// The truth: views and copies.
void OnCpu(at::Tensor& extended, const at::Tensor& a_GI, const std::vector<LowRankPart>& parts,
           double scale, bool with_a, int64_t O, int64_t I) {
  at::Tensor border = extended.narrow(0, 0, O).narrow(1, I, a_GI.size(0));
  border.zero_();
  int64_t column = 0;
  for (const LowRankPart& part : parts) {
    at::Tensor place =
        border.narrow(0, part.first_row, part.b_OR.size(0)).narrow(1, column, part.b_OR.size(1));
    at::mul_out(place, part.b_OR, at::scalar_tensor(scale, part.b_OR.options()));
    column += part.b_OR.size(1);
  }
  if (with_a) extended.narrow(0, O, a_GI.size(0)).narrow(1, 0, I).copy_(a_GI);
}

}  // namespace

void WriteLowRankBorder(at::Tensor& extended, const at::Tensor& a_GI,
                        const std::vector<LowRankPart>& parts, double scale, bool with_a) {
  const char* op = "WriteLowRankBorder";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, a_GI);
  const at::ScalarType type = a_GI.scalar_type();
  const at::Device device = a_GI.device();
  TORCH_CHECK(a_GI.dim() == 2 && extended.dim() == 2, op, ": a has shape ", a_GI.sizes(),
              ", extended ", extended.sizes(), ", expected matrices");
  TORCH_CHECK(parts.size() <= kMaxLowRankParts, op, ": ", parts.size(), " parts, at most 3");
  const int64_t G = a_GI.size(0), I = a_GI.size(1), O = extended.size(0) - G;
  LowRankBorderParams p = {
      .extended = extended.data_ptr(),
      .row_stride = CheckRows(op, "extended", extended, {O + G, I + G}, type, device),
      .I = I,
      .O = O,
      .G = G,
      .a = with_a ? a_GI.const_data_ptr() : nullptr,
      .parts = static_cast<int>(parts.size()),
      .scale = static_cast<float>(scale),
  };
  CheckTensor(op, "a", a_GI, {G, I}, type, device);
  int64_t column = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const LowRankPart& part = parts[i];
    CheckTensor(op, "b", part.b_OR, part.b_OR.sizes(), type, device);
    TORCH_CHECK(part.b_OR.dim() == 2 && part.first_row >= 0 &&
                    part.first_row + part.b_OR.size(0) <= O && column + part.b_OR.size(1) <= G,
                op, ": part ", i, " has shape ", part.b_OR.sizes(), " at row ", part.first_row,
                " and column ", column, " of a border of ", O, " by ", G);
    p.b[i] = part.b_OR.const_data_ptr();
    p.first_row[i] = static_cast<int32_t>(part.first_row);
    p.rows[i] = static_cast<int32_t>(part.b_OR.size(0));
    p.first_column[i] = static_cast<int32_t>(column);
    p.rank[i] = static_cast<int32_t>(part.b_OR.size(1));
    column += part.b_OR.size(1);
  }
  TORCH_CHECK(column == G, op, ": the parts have ", column, " columns, a has ", G, " rows");
  if (G == 0) return;
  if (extended.is_cuda()) {
    OnCuda(op, extended, [&](auto stream) { LowRankBorderCuda(p, dtype, stream); });
  } else {
    OnCpu(extended, a_GI, parts, scale, with_a, O, I);
  }
}

}  // namespace finetuned::kernels
