// Sums over the targets of each document of a packed batch, and back: a number per document to its
// targets. Legend: N documents, M targets.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/data/packing.h"

namespace finetuned::preference {

struct TargetGroups {
  int64_t documents = 0, targets = 0;
  // int64, on the device. Targets of a document lie side by side.
  at::Tensor lengths_N, document_M;
};

// Copies without waiting for the device.
TargetGroups GroupTargets(const data::PackedBatch& batch, at::Device device);

// float64 [N]: sums of x_M. Equal bits each time.
at::Tensor SumPerDocument(const TargetGroups& groups, const at::Tensor& x_M);

// float32 [M]: x_N at each target of the document.
at::Tensor SpreadToTargets(const TargetGroups& groups, const at::Tensor& x_N);

}  // namespace finetuned::preference
