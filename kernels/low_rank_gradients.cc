#include "kernels/low_rank_gradients.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>

#include "kernels/dispatch.h"
#include "kernels/low_rank_gradients_internal.h"

namespace finetuned::kernels {
namespace {

constexpr int64_t kChunk = 64;           // columns of a warp
constexpr int64_t kGroup = 8 * kChunk;   // of a block, at most

bool AlignedTo(const at::Tensor& t, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(t.data_ptr()) % bytes == 0; }

// The truth: two products a part.
void AsProducts(const at::Tensor& dy_TO, const at::Tensor& u_TG, const std::vector<LowRankGradientPart>& parts,
                double scale, at::Tensor& du_TG) {
  int64_t column = 0;
  for (const LowRankGradientPart& part : parts) {
    const int64_t rank = part.b_OR.size(1);
    const at::Tensor dy = dy_TO.narrow(1, part.first_column, part.b_OR.size(0));
    at::Tensor du = du_TG.narrow(1, column, rank), db = part.db_OR;
    at::addmm_out(du, du, dy, part.b_OR, /*beta=*/0, /*alpha=*/scale);
    const at::Tensor u = u_TG.narrow(1, column, rank);
    if (dy.scalar_type() == db.scalar_type()) {
      db.addmm_(dy.t(), u, 1, scale);
    } else {  // float32 results and sums of 16-bit products
      at::addmm_out(db, db, dy.t(), u, at::kFloat, /*beta=*/1, /*alpha=*/scale);
    }
    column += rank;
  }
}

void CheckPart(const char* op, const LowRankGradientPart& part, const at::Tensor& dy, int64_t O) {
  const at::ScalarType sums = dy.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(part.b_OR.dim() == 2 && part.first_column >= 0 && part.first_column + part.b_OR.size(0) <= O, op,
              ": a part has shape ", part.b_OR.sizes(), " at column ", part.first_column, " of ", O);
  CheckTensor(op, "b", part.b_OR, part.b_OR.sizes(), dy.scalar_type(), dy.device());
  CheckTensor(op, "db", part.db_OR, part.b_OR.sizes(), sums, dy.device());
}

void AddPart(const LowRankGradientPart& part, int64_t group_columns, LowRankGradientsParams* p) {
  const int i = p->parts++;
  const int64_t width = part.b_OR.size(0);
  p->b[i] = part.b_OR.const_data_ptr();
  p->db[i] = part.db_OR.data_ptr<float>();
  p->first_column[i] = static_cast<int32_t>(part.first_column);
  p->part_width[i] = static_cast<int32_t>(width);
  p->first_group[i] = p->groups;
  p->first_row[i] = p->width;
  p->groups += static_cast<int>((width + group_columns - 1) / group_columns);
  p->width += static_cast<int>(width);
}

}  // namespace

bool LowRankGradientsFused(const at::Tensor& dy_TO, const std::vector<LowRankGradientPart>& parts) {
  if (!dy_TO.is_cuda() || dy_TO.scalar_type() != at::kBFloat16) return false;
  if (parts.empty() || parts.size() > kMaxGradientParts || !AlignedTo(dy_TO, 16) || dy_TO.stride(0) % 8 != 0) return false;
  const int64_t rank = parts[0].b_OR.size(1);
  return (rank == 16 || rank == 32) && std::all_of(parts.begin(), parts.end(), [&](const LowRankGradientPart& part) {
    return part.b_OR.size(1) == rank && part.b_OR.size(0) % kChunk == 0 && part.first_column % 8 == 0 &&
           AlignedTo(part.b_OR, 32) && AlignedTo(part.db_OR, 16);
  });
}

LowRankGradientsParams CheckLowRankGradients(const char* op, const at::Tensor& dy_TO, const at::Tensor& u_TG,
                                             const std::vector<LowRankGradientPart>& parts, double scale,
                                             int64_t splits, const at::Tensor& du_TG) {
  const at::ScalarType type = dy_TO.scalar_type();
  const at::Device device = dy_TO.device();
  TORCH_CHECK(dy_TO.dim() == 2, op, ": dy has shape ", dy_TO.sizes(), ", expected [T, O]");
  const int64_t T = dy_TO.size(0), O = dy_TO.size(1);
  int64_t ranks = 0;
  for (const LowRankGradientPart& part : parts) {
    CheckPart(op, part, dy_TO, O);
    ranks += part.b_OR.size(1);
  }
  return {
      .dy = dy_TO.data_ptr(),
      .u = u_TG.data_ptr(),
      .du = du_TG.data_ptr(),
      .dy_stride = CheckRows(op, "dy", dy_TO, {T, O}, type, device),
      .u_stride = CheckRows(op, "u", u_TG, {T, ranks}, type, device),
      .du_stride = CheckRows(op, "du", du_TG, {T, ranks}, type, device),
      .T = T,
      .scale = static_cast<float>(scale),
      .splits = static_cast<int>(splits),
  };
}

bool LowRankInputsFused(const at::Tensor& u_TG) { return AlignedTo(u_TG, 16) && u_TG.stride(0) % 8 == 0; }

void AddLowRankParts(const char* op, const std::vector<LowRankGradientPart>& parts, int64_t group_columns,
                     const at::Tensor& scratch, LowRankGradientsParams* p) {
  p->rank = static_cast<int>(parts[0].b_OR.size(1));
  for (const LowRankGradientPart& part : parts) AddPart(part, group_columns, p);
  const int64_t of_du = p->groups * p->T * p->rank, needed = of_du + p->splits * int64_t{p->width} * p->rank;
  const at::Device device = parts[0].b_OR.device();
  TORCH_CHECK(p->splits >= 1 && scratch.numel() >= needed && scratch.is_contiguous() &&
                  scratch.scalar_type() == at::kFloat && scratch.device() == device,
              op, ": scratch must hold ", needed, " float32 on ", device);
  p->du_partial = scratch.data_ptr<float>();
  p->db_partial = p->du_partial + of_du;
}

void LowRankGradients(const at::Tensor& dy_TO, const at::Tensor& u_TG, const std::vector<LowRankGradientPart>& parts,
                      double scale, int64_t splits, const at::Tensor& scratch, at::Tensor& du_TG) {
  const char* op = "LowRankGradients";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  LowRankGradientsParams p = CheckLowRankGradients(op, dy_TO, u_TG, parts, scale, splits, du_TG);
  if (p.T == 0 || parts.empty()) return;
  if (!scratch.defined() || !LowRankInputsFused(u_TG) || !LowRankGradientsFused(dy_TO, parts)) {
    return AsProducts(dy_TO, u_TG, parts, scale, du_TG);
  }
  AddLowRankParts(op, parts, kGroup, scratch, &p);
  OnCuda(op, dy_TO, [&](auto stream) { LowRankGradientsCuda(p, stream); });
}

}  // namespace finetuned::kernels
