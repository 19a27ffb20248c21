#pragma once

#include <cstdint>
#include <string>

#include "engine/plan/memory_plan.h"

// What a step costs in operations and time.
namespace finetuned::plan {

// Floating point operations of forward and backward for one token at context `mean_length`: 2 per
// multiply-add; frozen linears cost forward and input gradient, adapters and attention all three. Recompute
// repeats the layers but for their last product; the lm_head is never repeated.
double TrainFlopsPerToken(const PlanInput& input, double mean_length);

// Of a forward alone: what a reference costs.
double ForwardFlopsPerToken(const PlanInput& input, double mean_length);

// What a card can do at most, from its data sheet.
struct DeviceSpeed {
  const char* product;           // part of the name that the driver gives
  double flops;                  // dense 16-bit products with float32 sums, per second
  double bytes_per_second;       // device memory
  double host_bytes_per_second;  // one way over PCIe
  bool cudnn_attention = false;  // as DeviceConstants
};

// The card whose name is part of `product` ("NVIDIA GeForce RTX 3090"); null: not known.
const DeviceSpeed* FindDeviceSpeed(const std::string& product);
// What estimates assume where there is no GPU: GeForce RTX 3090.
const DeviceSpeed& ReferenceDevice();

// Seconds of forward and backward of one micro-batch of `tokens` tokens in documents of `mean_length`, of the
// optimizer step's share for one of `accumulation` micro-batches too. Shares of the card's peaks that the engine
// reaches are those measured on an H100 (docs/measurements.md).
double MicroBatchSeconds(const PlanInput& input, const DeviceSpeed& device, double tokens, double mean_length,
                         int64_t accumulation);

}  // namespace finetuned::plan
