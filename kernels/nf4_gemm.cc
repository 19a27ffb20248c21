#include "kernels/nf4_gemm.h"

#include <ATen/record_function.h>

#include <algorithm>

#include "kernels/dispatch.h"
#include "kernels/nf4_gemm_params.h"

namespace finetuned::kernels {
namespace {

void AddPart(const char* op, const Nf4Tensor& q, int64_t in, at::Device device, Nf4GemmParams* p) {
  TORCH_CHECK(q.shape.size() == 2 && q.shape[1] == in, op, ": a part has shape ",
              at::IntArrayRef(q.shape), ", expected [rows, ", in, "]");
  const int64_t rows = q.shape[0], blocks = rows * in / kNf4Block;
  CheckTensor(op, "codes", q.codes, {rows * in / 2}, at::kByte, device);
  Nf4GemmPart& part = p->parts[p->num_parts++];
  part.codes = q.codes.const_data_ptr<uint8_t>();
  if (q.nested) {
    CheckTensor(op, "absmax_q", q.absmax_q, {blocks}, at::kByte, device);
    CheckTensor(op, "absmax2", q.absmax2, {(blocks + kNf4NestedBlock - 1) / kNf4NestedBlock}, at::kFloat,
                device);
    CheckTensor(op, "nested_map", q.nested_map, {256}, at::kFloat, device);
    part.absmax_q = q.absmax_q.const_data_ptr<uint8_t>();
    part.absmax2 = q.absmax2.const_data_ptr<float>();
    p->nested_map = q.nested_map.const_data_ptr<float>();
  } else {
    CheckTensor(op, "absmax", q.absmax, {blocks}, at::kFloat, device);
    part.absmax = q.absmax.const_data_ptr<float>();
  }
  part.offset = q.offset;
  part.first_row = p->O;
  part.rows = rows;
  p->O += rows;
}

void AddLowRank(const char* op, const LowRankTerm& term, const at::Tensor& x, Nf4GemmParams* p) {
  if (!term.u_MG.defined() || term.parts.empty()) return;
  TORCH_CHECK(term.parts.size() <= kMaxLowRankParts, op, ": ", term.parts.size(), " adapters");
  int64_t ranks = 0;
  for (const LowRankPart& part : term.parts) {
    const int64_t rows = part.b_OR.size(0), rank = part.b_OR.size(1);
    CheckTensor(op, "b", part.b_OR, {rows, rank}, x.scalar_type(), x.device());
    TORCH_CHECK(part.first_row >= 0 && part.first_row + rows <= p->O, op, ": b covers rows ",
                part.first_row, " to ", part.first_row + rows, " of ", p->O);
    p->low_rank[p->num_low_rank++] = {part.b_OR.data_ptr(), part.first_row, rows, rank, ranks};
    ranks += rank;
  }
  p->u_stride = CheckRows(op, "u", term.u_MG, {p->M, ranks}, x.scalar_type(), x.device());
  p->u = term.u_MG.data_ptr();
  p->scale = static_cast<float>(term.scale);
}

}  // namespace

bool Nf4GemmSupports(const std::vector<Nf4Tensor>& parts, int64_t in) {
  return !parts.empty() && parts.size() <= 3 && in % kNf4Block == 0;
}

void Nf4Gemm(const std::vector<Nf4Tensor>& parts, const at::Tensor& x_MI, const at::Tensor& bias_O,
             const LowRankTerm& low_rank, int64_t splits, const at::Tensor& scratch,
             at::Tensor& y_MO) {
  const char* op = "Nf4Gemm";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  TORCH_CHECK(x_MI.dim() == 2, op, ": x has shape ", x_MI.sizes(), ", expected [M, I]");
  const at::ScalarType dtype = x_MI.is_cuda() ? at::kBFloat16 : at::kFloat;
  const at::Device device = x_MI.device();
  Nf4GemmParams p = {};
  p.M = x_MI.size(0);
  p.I = x_MI.size(1);
  TORCH_CHECK(Nf4GemmSupports(parts, p.I), op, ": ", parts.size(), " parts of ", p.I,
              " inputs; at most 3 parts, inputs in multiples of 64");
  for (const Nf4Tensor& part : parts) AddPart(op, part, p.I, device, &p);
  p.code_map = parts[0].code_map.const_data_ptr<float>();
  p.x_stride = CheckRows(op, "x", x_MI, x_MI.sizes(), dtype, device);
  p.y_stride = CheckRows(op, "y", y_MO, {p.M, p.O}, dtype, device);
  p.x = x_MI.data_ptr();
  p.y = y_MO.data_ptr();
  AddLowRank(op, low_rank, x_MI, &p);
  if (bias_O.defined()) {
    CheckTensor(op, "bias", bias_O, {p.O}, dtype, device);
    p.bias = bias_O.data_ptr();
  }
  if (p.M == 0) return;
  if (!x_MI.is_cuda()) return Nf4GemmCpu(p);
  TORCH_CHECK(splits >= 1 && splits <= std::max<int64_t>(1, p.I / 128), op, ": ", splits, " splits of ",
              p.I, " inputs, at most one for each 128");
  p.splits = splits;
  const int64_t needed = splits * p.M * p.O;
  TORCH_CHECK(scratch.defined() && scratch.numel() >= needed && scratch.is_contiguous() &&
                  scratch.scalar_type() == at::kFloat && scratch.device() == device,
              op, ": scratch must hold ", needed, " float32 on ", device);
  TORCH_CHECK(p.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0, op,
              ": rows of x must start at multiples of 16 bytes, they are ", p.x_stride, " elements apart");
  p.partial = scratch.data_ptr<float>();
  OnCuda(op, x_MI, [&](auto stream) { Nf4GemmCuda(p, stream); });
}

}  // namespace finetuned::kernels
