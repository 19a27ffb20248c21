#include "engine/train/measure_device.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <exception>

#include "engine/generate/generator.h"
#include "engine/model/decoder.h"
#include "engine/model/random_model.h"
#include "engine/train/device.h"
#include "engine/train/driver_memory.h"
#include "engine/train/optimizer.h"
#include "kernels/finite.h"

#ifdef FINETUNED_HAVE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#endif

namespace finetuned::train {
namespace {

constexpr int64_t kKernelMargin = 32ll << 20;  // kernels of other shapes are loaded when they are first run
// A context outside of these was not measured.
constexpr int64_t kSmallestContext = 100'000'000, kLargestContext = 3'000'000'000;

#ifdef FINETUNED_HAVE_CUDA

format::ModelConfig SmallModel() {
  format::ModelConfig m;
  m.architecture = "llama";
  m.vocab_size = 4096;
  m.hidden_size = 1024;
  m.intermediate_size = 2048;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 8;
  m.num_key_value_heads = 4;
  m.head_dim = 128;
  m.max_position_embeddings = 4096;
  return m;
}

// Passes of all methods over documents that go to each attention there is, an update, and a generation.
void RunEverythingOnce(at::Device device) {
  const format::ModelConfig config = SmallModel();
  const auto base = model::RandomModel(config, {device, at::kBFloat16, plan::BaseFormat::kNf4});
  lora::Options lora;
  lora.rank = 16;
  lora.targets = *lora::ParseTargets({"all-linear"});
  lora::Adapter adapter(config, lora, device, at::kBFloat16);
  adapter.Initialize(1);
  Optimizer optimizer({}, &adapter);
  model::Decoder decoder(*base, adapter, {});
  const auto f32 = at::TensorOptions().device(device).dtype(at::kFloat);
  at::Tensor sums = at::zeros({model::kLossSums}, f32.dtype(at::kDouble));
  for (const int64_t length : {256, 2048}) {
    const model::DeviceBatch batch = model::Upload(model::RandomBatch(config, 2, length), device);
    decoder.ForwardBackward(batch, at::ones({1}, f32), 1, 0, sums);
    decoder.LogProbs(batch, {}, model::AdapterUse::kOff);
    decoder.ForwardLogProbs(batch, {.mean_logits = true});
    decoder.BackwardLogProbs(batch, {.mean_logits = true}, at::ones({batch.targets}, f32));
  }
  at::Tensor norm = at::empty({1}, f32), clip = at::empty({1}, f32), skip = at::empty({1}, f32);
  kernels::GradNormAndScale({adapter.gradients()}, 1.0, norm, clip, skip);
  optimizer.Step(1e-4, 1, clip, skip);
  generate::GeneratorOptions options;
  options.max_batch = 8;
  options.cache_tokens = 2048;
  options.max_sequence_tokens = 256;
  generate::Generator generator(*base, &adapter, options);
  generate::Request request;
  request.prompt_ids.assign(64, 1);
  request.num_samples = 8;
  request.sampling.max_new_tokens = 4;
  TORCH_CHECK(generator.Generate({request}).ok(), "the small model generates nothing");
  norm.to(at::kCPU);
}

class CudaMeter : public DeviceMeter {
 public:
  explicit CudaMeter(int index) : index_(static_cast<c10::DeviceIndex>(index)) {}

  std::optional<int64_t> Used() override { return DriverUsedBytes(index_); }

  bool Work() override {
    try {
      c10::InferenceMode no_autograd;
      RunEverythingOnce(at::Device(at::kCUDA, index_));
    } catch (const std::exception&) {
      ReleaseCachedMemory(at::Device(at::kCUDA, index_));
      return false;
    }
    ReleaseCachedMemory(at::Device(at::kCUDA, index_));
    return true;
  }

  int64_t Reserved() override { return Stats().reserved_bytes[0].current; }
  int64_t Allocated() override { return Stats().allocated_bytes[0].current; }

 private:
  c10::CachingDeviceAllocator::DeviceStats Stats() const {
    return c10::cuda::CUDACachingAllocator::getDeviceStats(index_);
  }

  const c10::DeviceIndex index_;
};

#endif

}  // namespace

std::optional<plan::DeviceConstants> MeasureWith(DeviceMeter& meter) {
  const std::optional<int64_t> before = meter.Used();
  if (!before || !meter.Work()) return std::nullopt;
  const std::optional<int64_t> after = meter.Used();
  if (!after) return std::nullopt;
  plan::DeviceConstants measured;
  measured.context_bytes = *after - *before - meter.Reserved() + kKernelMargin;
  measured.workspace_bytes = meter.Allocated();
  if (measured.context_bytes < kSmallestContext || measured.context_bytes > kLargestContext) return std::nullopt;
  return measured;
}

std::optional<plan::DeviceConstants> MeasureDevice(int device_index) {
#ifdef FINETUNED_HAVE_CUDA
  CudaMeter meter(device_index);
  return MeasureWith(meter);
#else
  (void)device_index;
  return std::nullopt;
#endif
}

}  // namespace finetuned::train
