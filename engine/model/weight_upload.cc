#include "engine/model/weight_upload.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace finetuned::model {
namespace {

constexpr size_t kStageBytes = 64 << 20;
constexpr size_t kBytesPerThread = 2 << 20;  // fewer are not worth a thread
constexpr size_t kThreads = 8;               // more do not read a page cache faster

void CopyByThreads(uint8_t* to, std::span<const uint8_t> from) {
  const size_t most = std::min<size_t>(kThreads, static_cast<size_t>(at::get_num_threads()));
  const size_t threads = std::clamp<size_t>(from.size() / kBytesPerThread, 1, most);
  const size_t share = (from.size() + threads - 1) / threads;
  std::vector<std::thread> running;
  const auto copy = [&](size_t i) {
    const size_t first = std::min(from.size(), i * share);
    std::memcpy(to + first, from.data() + first, std::min(share, from.size() - first));
  };
  for (size_t i = 1; i < threads; ++i) running.emplace_back(copy, i);
  copy(0);
  for (std::thread& thread : running) thread.join();
}

}  // namespace

at::Tensor WeightUpload::Copy(std::span<const uint8_t> bytes, at::ScalarType dtype, at::IntArrayRef shape) {
  at::Tensor out = at::empty(shape, at::dtype(dtype).device(device_));
  at::Tensor all = out.view({-1}).view(at::kByte);
  TORCH_CHECK(static_cast<size_t>(all.numel()) == bytes.size(), "a weight of ", all.numel(), " bytes has ",
              bytes.size(), " in its file");
  if (!device_.is_cuda()) {
    CopyByThreads(all.data_ptr<uint8_t>(), bytes);
    return out;
  }
  const c10::impl::VirtualGuardImpl device(device_.type());
  for (size_t first = 0; first < bytes.size(); first += kStageBytes) {
    const size_t count = std::min(kStageBytes, bytes.size() - first);
    Stage& stage = stages_[next_];
    next_ = (next_ + 1) % stages_.size();
    if (stage.sent) {
      stage.sent->synchronize();
    } else {
      stage.pinned = at::empty({static_cast<int64_t>(kStageBytes)}, at::dtype(at::kByte).pinned_memory(true));
      stage.sent.emplace(device_.type());
    }
    CopyByThreads(stage.pinned.data_ptr<uint8_t>(), bytes.subspan(first, count));
    const int64_t n = static_cast<int64_t>(count);
    all.narrow(0, static_cast<int64_t>(first), n).copy_(stage.pinned.narrow(0, 0, n), /*non_blocking=*/true);
    stage.sent->record(device.getStream(device_));
  }
  return out;
}

}  // namespace finetuned::model
