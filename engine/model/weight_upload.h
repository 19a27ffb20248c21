// Stored weights onto the device: several threads read the mapped file into pinned memory, and one piece travels while
// the next is read.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>

namespace finetuned::model {

// Not thread safe. Copies are made on the current stream.
class WeightUpload {
 public:
  explicit WeightUpload(at::Device device) : device_(device) {}

  // A tensor of `shape` on the device from its elements as `dtype` in memory; `bytes` may go away on return.
  at::Tensor Copy(std::span<const uint8_t> bytes, at::ScalarType dtype, at::IntArrayRef shape);

 private:
  struct Stage {
    at::Tensor pinned;
    std::optional<c10::Event> sent;
  };

  const at::Device device_;
  std::array<Stage, 2> stages_;
  size_t next_ = 0;
};

}  // namespace finetuned::model
