#include "engine/model/stored_matrix.h"

#include <ATen/ATen.h>

namespace finetuned::model {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

int64_t Bytes(const at::Tensor& t) { return t.defined() ? static_cast<int64_t>(t.nbytes()) : 0; }

}  // namespace

StoredMatrix StoreMatrix(const at::Tensor& weight_OI, plan::BaseFormat format, bool double_quant,
                         at::ScalarType compute) {
  switch (format) {
    case plan::BaseFormat::kNf4: return kernels::Nf4Quantize(weight_OI, double_quant);
    case plan::BaseFormat::kFp4: return kernels::Nf4Quantize(weight_OI, double_quant, kernels::FourBitType::kFp4);
    case plan::BaseFormat::kInt8: return kernels::QuantizeToRowCodes(weight_OI, at::kChar);
    case plan::BaseFormat::kFp8: return kernels::QuantizeToRowCodes(weight_OI, at::kFloat8_e4m3fn);
    case plan::BaseFormat::kCompute: break;
  }
  return weight_OI.to(compute);
}

int64_t StoredBytes(const StoredMatrix& matrix) {
  return std::visit(Overloaded{[](const kernels::Nf4Tensor& q) {
                                 return Bytes(q.codes) + Bytes(q.absmax_q) + Bytes(q.absmax2) + Bytes(q.absmax);
                               },
                               [](const kernels::RowCodes& w) { return Bytes(w.codes_OI) + Bytes(w.scale_O); },
                               [](const at::Tensor& t) { return Bytes(t); }},
                    matrix);
}

int64_t StoredRows(const StoredMatrix& matrix) {
  return std::visit(Overloaded{[](const kernels::Nf4Tensor& q) { return q.shape[0]; },
                               [](const kernels::RowCodes& w) { return w.codes_OI.size(0); },
                               [](const at::Tensor& t) { return t.size(0); }},
                    matrix);
}

bool IsDense(const StoredMatrix& matrix) { return std::holds_alternative<at::Tensor>(matrix); }

void Dequantize(const StoredMatrix& matrix, at::Tensor& out_OI) {
  std::visit(Overloaded{[&](const kernels::Nf4Tensor& q) { kernels::Nf4Dequantize(q, out_OI); },
                        [&](const kernels::RowCodes& w) { kernels::DequantizeRowCodes(w, out_OI); },
                        [&](const at::Tensor& t) { out_OI.copy_(t); }},
             matrix);
}

}  // namespace finetuned::model
