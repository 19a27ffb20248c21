#include "engine/model/int8_product.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "engine/plan/memory_plan.h"
#include "kernels/codes8.h"

namespace finetuned::model {
namespace {

struct Outliers {
  at::Tensor columns_K;  // int64
  at::Tensor values_TK;  // of x in them, 0 where a column is none
  at::Tensor rest_TI;    // x with 0 in them
};

Outliers Split(const at::Tensor& x_TI, double threshold, Workspace& workspace) {
  const int64_t rows = x_TI.size(0), in = x_TI.size(1), most = std::min(plan::kInt8Outliers, in);
  const at::Tensor largest_I = at::linalg_vector_norm(x_TI, std::numeric_limits<double>::infinity(), {0});
  const auto [top_K, columns_K] = at::topk(largest_I, most);
  const at::Tensor is_K = top_K.ge(threshold).to(x_TI.scalar_type());
  Outliers out;
  out.columns_K = columns_K;
  out.values_TK = workspace.Take("int8.outliers", 0, {rows, most}, x_TI.scalar_type());
  at::index_select_out(out.values_TK, x_TI, 1, columns_K);
  out.values_TK.mul_(is_K);
  const at::Tensor keep_I = at::ones({in}, x_TI.options()).scatter_(0, columns_K, 1 - is_K);
  out.rest_TI = workspace.Take("int8.rest", 0, {rows, in}, x_TI.scalar_type());
  at::mul_out(out.rest_TI, x_TI, keep_I);
  return out;
}

}  // namespace

bool Int8ProductSupports(const std::vector<kernels::RowCodes>& parts, int64_t in) {
  return !parts.empty() && in % kernels::kCodes8Align == 0 &&
         std::all_of(parts.begin(), parts.end(), [](const kernels::RowCodes& part) {
           return part.codes_OI.scalar_type() == at::kChar && part.codes_OI.size(0) % kernels::kCodes8Align == 0;
         });
}

void Int8Product(const std::vector<kernels::RowCodes>& parts, const at::Tensor& x_TI, double threshold,
                 Workspace& workspace, at::Tensor& y_TO) {
  const int64_t rows = x_TI.size(0), in = x_TI.size(1), padded = kernels::Codes8Rows(rows);
  const Outliers outliers = Split(x_TI, threshold, workspace);
  const at::Tensor memory = workspace.Take("codes8.inputs", 0, {padded * in}, at::kByte);
  at::Tensor codes = memory.view(at::kChar).view({padded, in}).narrow(0, 0, rows);
  at::Tensor scale = workspace.Take("codes8.scales", 0, {padded}, at::kFloat).narrow(0, 0, rows);
  kernels::QuantizeRows(outliers.rest_TI, codes, scale);
  int64_t first = 0;
  for (const kernels::RowCodes& part : parts) {
    const int64_t out = part.codes_OI.size(0);
    const at::Tensor sums =
        workspace.Take("codes8.sums", 0, {std::min(plan::kCodes8SumRows, padded) * out}, at::kInt);
    at::Tensor y = y_TO.narrow(1, first, out);
    kernels::MultiplyCodes(codes, scale, part.codes_OI, part.scale_O, sums, y);
    const at::Tensor columns_OK = at::index_select(part.codes_OI, 1, outliers.columns_K).to(y.scalar_type());
    y.addmm_(outliers.values_TK, columns_OK.mul(part.scale_O.unsqueeze(1)).to(y.scalar_type()).t());
    first += out;
  }
}

}  // namespace finetuned::model
