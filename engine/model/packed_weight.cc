#include "engine/model/packed_weight.h"

#include <ATen/ATen.h>

#include <vector>

namespace finetuned::model {
namespace {

at::Tensor Floats(const std::vector<float>& values, WeightUpload& upload) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return upload.Copy({bytes, values.size() * sizeof(float)}, at::kFloat, {static_cast<int64_t>(values.size())});
}

at::Tensor Bytes(std::span<const uint8_t> bytes, WeightUpload& upload) {
  return upload.Copy(bytes, at::kByte, {static_cast<int64_t>(bytes.size())});
}

}  // namespace

plan::BaseFormat PackedFormat(const format::BnbWeight& w) {
  switch (w.kind) {
    case format::BnbWeight::Kind::kNf4: return plan::BaseFormat::kNf4;
    case format::BnbWeight::Kind::kFp4: return plan::BaseFormat::kFp4;
    case format::BnbWeight::Kind::kInt8: break;
  }
  return plan::BaseFormat::kInt8;
}

StoredMatrix UploadPacked(const format::BnbWeight& w, WeightUpload& upload) {
  if (w.kind == format::BnbWeight::Kind::kInt8) {
    kernels::RowCodes rows;
    rows.codes_OI = upload.Copy(w.codes, at::kChar, w.shape);
    rows.scale_O = Floats(w.row_absmax, upload).mul_(1.0f / 127.0f);
    return rows;
  }
  kernels::Nf4Tensor q;
  q.shape = w.shape;
  q.codes = Bytes(w.codes, upload);
  q.code_map = Floats(w.code_map, upload);
  q.nested = w.nested;
  if (!w.nested) {
    q.absmax = Floats(w.absmax, upload);
    return q;
  }
  q.absmax_q = Bytes(w.absmax_codes, upload);
  q.absmax2 = Floats(w.nested_absmax, upload);
  q.nested_map = Floats(w.nested_map, upload);
  q.offset = w.offset;
  return q;
}

}  // namespace finetuned::model
