#include "engine/model/workspace.h"

#include <ATen/ATen.h>

#include "engine/plan/memory_plan.h"

namespace finetuned::model {

at::Tensor Workspace::Take(std::string_view name, int64_t layer, at::IntArrayRef shape,
                           at::ScalarType dtype) {
  at::Tensor& buffer = buffers_[{name, layer}];
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  if (!buffer.defined() || buffer.numel() < n || buffer.scalar_type() != dtype) {
    buffer.reset();  // the old memory may serve the new request
    buffer = at::empty({n}, at::TensorOptions().device(device_).dtype(dtype));
  }
  return buffer.narrow(0, 0, n).view(shape);
}

Extended Workspace::TakeExtended(std::string_view name, int64_t layer, int64_t rows,
                                 int64_t columns, int64_t spare, at::ScalarType dtype) {
  return {Take(name, layer, {rows, columns + plan::SpareColumns(spare)}, dtype), columns};
}

std::map<std::string, int64_t> Workspace::Bytes() const {
  std::map<std::string, int64_t> sums;
  for (const auto& [key, buffer] : buffers_) {
    sums[std::string(key.first)] += static_cast<int64_t>(buffer.nbytes());
  }
  return sums;
}

}  // namespace finetuned::model
