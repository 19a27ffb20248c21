#include "engine/plan/cost.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "engine/plan/linears.h"
#include "engine/plan/standing_weights.h"

namespace finetuned::plan {
namespace {

constexpr DeviceSpeed kDevices[] = {
    {"RTX 3090", 71e12, 936e9, 25e9},   {"RTX 4090", 165e12, 1008e9, 25e9}, {"RTX A6000", 155e12, 768e9, 25e9},
    {"RTX 3060", 25.5e12, 360e9, 12e9}, {"A100", 312e12, 1935e9, 25e9},     {"H100", 989e12, 3350e9, 50e9, true},
    {"H200", 989e12, 4800e9, 50e9, true},
};

// Shares of the peaks, and what was counted by hand, on an H100 in docs/measurements.md: whole steps of 135M to 13B
// come out within 10% where the device and not the host is the limit.
constexpr double kProductShare = 0.71;      // of the operations of frozen products
constexpr double kFp8Products = 1.45, kInt8Products = 0.86;  // speed against 16-bit ones
constexpr double kAttentionShare = 0.36;    // likewise of attention, for heads of 128 columns
constexpr double kLongAttentionShare = 0.52;  // documents of kLongDocument tokens and more, which cuDNN runs
constexpr double kLongDocument = 8192;
constexpr double kBandwidthShare = 0.87;    // of memory, for everything that only moves bytes
constexpr double kActivationPasses = 7;     // times that a kept activation is read or written in forward and backward
constexpr double kForwardPasses = 2;        // of these when a forward is repeated
constexpr double kPieceReads = 0.6;         // of a layer's weights for each piece of rows beyond the first, per use
constexpr double kLogitPasses = 4;          // of float32 logits
constexpr double kLaunchSeconds = 0.7e-3;   // of the host, for forward and backward of one layer

struct Sizes {
  double layer = 0, qkv = 0, last = 0;  // weights of a layer, of its first and of its last product
  double head = 0;
  double layers = 0;
  double kept = 0;  // activations of a layer, bytes per token

  explicit Sizes(const PlanInput& in) {
    const format::ModelConfig& m = in.model;
    for (const Linear& l : LayerLinears(m)) {
      last = static_cast<double>(l.in) * static_cast<double>(l.out);
      layer += last;
    }
    qkv = static_cast<double>(m.hidden_size) * static_cast<double>(m.q_size() + 2 * m.kv_size());
    layers = static_cast<double>(m.num_hidden_layers);
    head = static_cast<double>(m.vocab_size) * static_cast<double>(m.hidden_size);
    kept = static_cast<double>(
        (4 * m.hidden_size + m.q_size() + 2 * m.kv_size() + 3 * m.intermediate_size) * in.compute_bytes);
  }
};

// What recompute does twice.
struct Repeated {
  double layers = 0;     // share of layers whose forward is repeated, but for the last product
  double attention = 0;  // share of layers whose qkv product and attention are among it

  explicit Repeated(const PlanInput& in) {
    if (!in.activation_checkpointing) return;
    const double n = static_cast<double>(in.model.num_hidden_layers);
    const double all = std::min(n, static_cast<double>(in.keep_all_layers));
    layers = 1 - all / n;
    attention = 1 - std::min(n, all + static_cast<double>(in.keep_attention_layers)) / n;
  }
  // Weights used a second time, of all layers.
  double weights(const Sizes& s) const {
    return s.layers * (layers * (s.layer - s.last) - (layers - attention) * s.qkv);
  }
};

// How often a step multiplies with a layer's weights: forward and input gradient, with DoRA once more for the gradient of
// its magnitudes, and with dropout twice more for the inputs that it dropped (all linears counted as targets).
double UsesOfWeights(const PlanInput& in) { return !in.use_dora ? 2 : in.lora_dropout ? 5 : 3; }

// Pieces of rows beyond the first that recomputed layers work on.
double ExtraPieces(const PlanInput& in, double tokens) {
  if (!in.activation_checkpointing) return 0;
  const int64_t rows = in.piece_rows > 0 ? in.piece_rows : LayerPieceRows(in.model.intermediate_size);
  return std::max(0.0, std::ceil(tokens / static_cast<double>(rows)) - 1);
}

double ProductShare(MatmulPrecision precision) {
  if (precision == MatmulPrecision::kCompute) return kProductShare;
  return kProductShare * (precision == MatmulPrecision::kFp8 ? kFp8Products : kInt8Products);
}

// Operations of attention of all layers for one token, forward: two products over half the context.
double AttentionFlops(const PlanInput& in, double mean_length) {
  const format::ModelConfig& m = in.model;
  return 2.0 * static_cast<double>(m.num_hidden_layers * m.q_size()) * mean_length;
}

// Bytes that one use of a stored weight moves: read, written dequantized, and read again by the product.
double WeightTraffic(const PlanInput& in) {
  const auto compute = static_cast<double>(in.compute_bytes);
  switch (in.base) {
    case BaseFormat::kNf4:
    case BaseFormat::kFp4: return (in.double_quant ? 0.52 : 0.5625) + 2 * compute;
    case BaseFormat::kInt8:
    case BaseFormat::kFp8: return 1 + 2 * compute;
    case BaseFormat::kCompute: break;
  }
  return compute;
}

}  // namespace

double TrainFlopsPerToken(const PlanInput& input, double mean_length) {
  const Sizes s(input);
  const Repeated repeated(input);
  return 2.0 * (2.0 * s.head + UsesOfWeights(input) * s.layers * s.layer + repeated.weights(s)) +
         AttentionFlops(input, mean_length) * (3.5 + repeated.attention) +
         6.0 * static_cast<double>(CountLoraParameters(input));
}

double ForwardFlopsPerToken(const PlanInput& input, double mean_length) {
  const Sizes s(input);
  return 2.0 * (s.head + s.layers * s.layer) + AttentionFlops(input, mean_length);
}

const DeviceSpeed* FindDeviceSpeed(const std::string& product) {
  for (const DeviceSpeed& device : kDevices) {
    if (absl::StrContains(product, device.product)) return &device;
  }
  return nullptr;
}

const DeviceSpeed& ReferenceDevice() { return kDevices[0]; }

double MicroBatchSeconds(const PlanInput& in, const DeviceSpeed& device, double tokens, double mean_length,
                         int64_t accumulation) {
  const Sizes s(in);
  const Repeated repeated(in);
  const auto lora = static_cast<double>(CountLoraParameters(in));
  const double used = s.layers * UsesOfWeights(in) * s.layer + repeated.weights(s);  // weights, once per use
  const double products = 2 * tokens * (used / ProductShare(in.precision) + 2 * s.head / kProductShare) / device.flops;
  const double attention_share = (mean_length < kLongDocument ? kAttentionShare : kLongAttentionShare) *
                                 std::min(1.0, static_cast<double>(in.model.head_dim) / 128);
  const double attention =
      tokens * AttentionFlops(in, mean_length) * (3.5 + repeated.attention) / (attention_share * device.flops);
  // A recomputed layer is used in the forward, again, and in the backward.
  const double reread = ExtraPieces(in, tokens) * repeated.layers * s.layers * 3 * s.layer * kPieceReads *
                        static_cast<double>(in.compute_bytes);
  const double standing = static_cast<double>(PlannedStandingLayers(in)) / s.layers;
  const double traffic = (1 - standing) * WeightTraffic(in) + standing * static_cast<double>(in.compute_bytes);
  const double moved = used * traffic + reread +
                       tokens * s.layers * s.kept * (kActivationPasses + repeated.layers * kForwardPasses) +
                       tokens * static_cast<double>(in.model.vocab_size) * 4 * kLogitPasses +
                       // Gradients, parameters and moments: read and written once per optimizer step.
                       lora * 24 / static_cast<double>(std::max<int64_t>(1, accumulation));
  const double busy = products + attention + moved / (kBandwidthShare * device.bytes_per_second);
  const double host = s.layers * kLaunchSeconds * (1 + repeated.layers / 3);
  // Offloaded inputs leave during the forward and come back during the backward, beside the computation.
  const double copies = in.activation_offload ? 2 * tokens * s.layers *
                                                    static_cast<double>(in.model.hidden_size * in.compute_bytes) /
                                                    device.host_bytes_per_second
                                              : 0;
  return std::max({busy, host, copies});
}

}  // namespace finetuned::plan
