// The residual stream between layers: the input of each layer, which the backward needs again, and the output of the
// last. On the device, or, to save its memory, in pinned host memory: then two buffers alternate on the device, and
// copies run on two streams of their own beside the layers. Legend: T tokens, D hidden.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/model/workspace.h"

namespace finetuned::model {

// A pass calls ForWriting and Written for i = 0 .. layers, in order; its backward ForReading for i = layers .. 0.
// Index `layers` is the last output. Nothing waits on the host. Not thread safe.
class LayerInputs {
 public:
  // workspace: must outlive this. offload: keep inputs in host memory.
  LayerInputs(Workspace* workspace, at::Device device, int64_t layers, bool offload);

  // The buffer for i, [T, D]. keep false: without a backward two buffers alternate.
  at::Tensor ForWriting(int64_t i, at::IntArrayRef shape, at::ScalarType dtype, bool keep);
  // What was asked for last has been written.
  void Written(int64_t i, bool keep);
  // The buffer of i with what was written; fetches i - 1 meanwhile. Valid until ForReading(i - 1).
  at::Tensor ForReading(int64_t i, at::IntArrayRef shape, at::ScalarType dtype);

  // Bytes in host memory.
  int64_t host_bytes() const;

 private:
  struct Kept {
    at::Tensor host;                      // grows to the largest request
    std::optional<c10::Event> saved, loaded;
  };

  at::Tensor Buffer(int64_t slot, at::IntArrayRef shape, at::ScalarType dtype);
  // The last two are still in the device's buffers when the backward begins.
  bool StaysOnDevice(int64_t i) const { return i >= layers_ - 1; }
  void Load(int64_t i, at::IntArrayRef shape, at::ScalarType dtype);

  Workspace& workspace_;
  const at::Device device_;
  const int64_t layers_;
  const bool offload_;
  std::optional<c10::Stream> save_stream_, load_stream_;  // on a GPU
  std::vector<Kept> kept_;
  at::Tensor last_;  // what ForWriting returned
};

}  // namespace finetuned::model
