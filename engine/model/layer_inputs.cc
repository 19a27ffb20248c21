#include "engine/model/layer_inputs.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#ifdef FINETUNED_HAVE_CUDA
#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>
#endif

namespace finetuned::model {
namespace {

c10::Stream CurrentStream(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// Runs copies on `side` once what the current stream holds is done; `done` then marks their end.
template <typename Copies>
void Beside(at::Device device, c10::Stream side, std::optional<c10::Event>* done, const Copies& copies) {
  c10::Event ready(device.type());
  ready.record(CurrentStream(device));
  ready.block(side);
  c10::StreamGuard guard(side);
  copies();
  done->emplace(device.type());
  (*done)->record(side);
}

// Host memory that copies of a GPU reach while the host goes on. Not LibTorch's pinned memory: that is rounded up to
// a power of two.
at::Tensor HostMemory(int64_t elements, at::ScalarType dtype, at::Device device) {
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) {
    void* memory = nullptr;
    const size_t bytes = static_cast<size_t>(elements) * c10::elementSize(dtype);
    C10_CUDA_CHECK(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable));
    return at::from_blob(memory, {elements}, [](void* p) { cudaFreeHost(p); }, at::dtype(dtype));
  }
#endif
  return at::empty({elements}, at::dtype(dtype));
}

}  // namespace

LayerInputs::LayerInputs(Workspace* workspace, at::Device device, int64_t layers, bool offload)
    : workspace_(*workspace), device_(device), layers_(layers), offload_(offload), kept_(layers) {
  if (!offload || !device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  save_stream_ = guard.getStreamFromGlobalPool(device);
  load_stream_ = guard.getStreamFromGlobalPool(device);
}

at::Tensor LayerInputs::Buffer(int64_t slot, at::IntArrayRef shape, at::ScalarType dtype) {
  return workspace_.Take("layer.input", slot, shape, dtype);
}

at::Tensor LayerInputs::ForWriting(int64_t i, at::IntArrayRef shape, at::ScalarType dtype, bool keep) {
  if (offload_ && keep && i >= 2 && kept_[i - 2].saved) kept_[i - 2].saved->block(CurrentStream(device_));
  last_ = Buffer(keep && !offload_ ? i : i % 2, shape, dtype);
  return last_;
}

void LayerInputs::Written(int64_t i, bool keep) {
  if (!offload_ || !keep || StaysOnDevice(i)) return;
  Kept& kept = kept_[i];
  if (!kept.host.defined() || kept.host.numel() < last_.numel()) {
    kept.host.reset();
    kept.host = HostMemory(last_.numel(), last_.scalar_type(), device_);
  }
  at::Tensor host = kept.host.narrow(0, 0, last_.numel()).view(last_.sizes());
  const auto copy = [&] { host.copy_(last_, /*non_blocking=*/true); };
  save_stream_ ? Beside(device_, *save_stream_, &kept.saved, copy) : copy();
}

void LayerInputs::Load(int64_t i, at::IntArrayRef shape, at::ScalarType dtype) {
  Kept& kept = kept_[i];
  at::Tensor buffer = Buffer(i % 2, shape, dtype);
  const auto copy = [&] {
    buffer.copy_(kept.host.narrow(0, 0, buffer.numel()).view(shape), /*non_blocking=*/true);
  };
  load_stream_ ? Beside(device_, *load_stream_, &kept.loaded, copy) : copy();
}

at::Tensor LayerInputs::ForReading(int64_t i, at::IntArrayRef shape, at::ScalarType dtype) {
  if (!offload_) return Buffer(i, shape, dtype);
  if (!StaysOnDevice(i) && kept_[i].loaded) kept_[i].loaded->block(CurrentStream(device_));
  if (i >= 1 && !StaysOnDevice(i - 1)) Load(i - 1, shape, dtype);
  return Buffer(i % 2, shape, dtype);
}

int64_t LayerInputs::host_bytes() const {
  int64_t sum = 0;
  for (const Kept& kept : kept_) sum += kept.host.defined() ? static_cast<int64_t>(kept.host.nbytes()) : 0;
  return sum;
}

}  // namespace finetuned::model
