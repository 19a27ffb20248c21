// Named device memory of a step, reused by every micro-batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace finetuned::model {

// A matrix with room for more columns behind its own: there lies the adapters' part of what a product reads.
struct Extended {
  at::Tensor buffer_TS;  // row stride S: a multiple of 8 above `columns`
  int64_t columns = 0;

  at::Tensor main() const { return With(0); }
  int64_t rows() const { return buffer_TS.size(0); }
  Extended Rows(int64_t first, int64_t count) const { return {buffer_TS.narrow(0, first, count), columns}; }
  at::Tensor low(int64_t ranks) const { return buffer_TS.narrow(1, columns, ranks); }
  at::Tensor With(int64_t ranks) const { return buffer_TS.narrow(1, 0, columns + ranks); }
};

// Each (name, layer) owns one allocation that grows to the largest request, so after the largest
// micro-batch nothing is allocated any more. Not thread safe.
class Workspace {
 public:
  explicit Workspace(at::Device device) : device_(device) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // A contiguous tensor over the front of the buffer: what was last written there, as long as no request was
  // larger; otherwise undefined. Taking a larger one invalidates what was taken before. `name` must outlive the workspace (a literal).
  at::Tensor Take(std::string_view name, int64_t layer, at::IntArrayRef shape,
                  at::ScalarType dtype);

  Extended TakeExtended(std::string_view name, int64_t layer, int64_t rows, int64_t columns,
                        int64_t spare, at::ScalarType dtype);

  // Bytes by name, all layers together: what the plan is compared with.
  std::map<std::string, int64_t> Bytes() const;

 private:
  at::Device device_;
  std::map<std::pair<std::string_view, int64_t>, at::Tensor> buffers_;
};

}  // namespace finetuned::model
