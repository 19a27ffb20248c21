#include "engine/generate/decode_graphs.h"

#include <c10/util/Exception.h>

#ifdef FINETUNED_HAVE_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace finetuned::generate {

#ifdef FINETUNED_HAVE_CUDA

struct DecodeGraphs::Recorded {
  at::cuda::CUDAGraph graph;
};

namespace {

// Recording is not allowed on the default stream. One for all graphs of the process: libraries keep a workspace for
// every stream that they ever ran on.
c10::cuda::CUDAStream RecordingStream() {
  static const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  return stream;
}

}  // namespace

bool DecodeGraphs::Available(bool cuda) { return cuda; }

void DecodeGraphs::Warm(const std::function<void()>& body) {
  c10::cuda::getCurrentCUDAStream().synchronize();
  const c10::cuda::CUDAStreamGuard side(RecordingStream());
  body();
  RecordingStream().synchronize();
}

void DecodeGraphs::Run(int64_t key, const std::function<void()>& body) {
  std::unique_ptr<Recorded>& recorded = graphs_[key];
  if (recorded == nullptr) {
    auto made = std::make_unique<Recorded>();
    {
      c10::cuda::getCurrentCUDAStream().synchronize();
      // The allocator cannot give cached memory back while it records.
      c10::cuda::CUDACachingAllocator::emptyCache();
      const c10::cuda::CUDAStreamGuard side(RecordingStream());
      made->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
      body();
      made->graph.capture_end();
    }
    recorded = std::move(made);
  }
  recorded->graph.replay();
}

#else

struct DecodeGraphs::Recorded {};

bool DecodeGraphs::Available(bool) { return false; }

void DecodeGraphs::Warm(const std::function<void()>&) {}

void DecodeGraphs::Run(int64_t, const std::function<void()>&) {
  TORCH_CHECK(false, "DecodeGraphs: this build has no CUDA");
}

#endif

DecodeGraphs::DecodeGraphs() = default;
DecodeGraphs::~DecodeGraphs() = default;

}  // namespace finetuned::generate
