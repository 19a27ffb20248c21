// What the family tests of CPU and GPU share.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "engine/data/packing.h"
#include "engine/model/decoder.h"

namespace finetuned::parity {

// Those of tests/golden/parity/families, in the order of make_family_goldens.py.
std::vector<std::string> FamilyNames();

struct FamilyOutcome {
  at::Tensor logits;  // float32, on the CPU, as everything here
  double loss = 0;    // mean over targets
  std::map<std::string, at::Tensor> grads;  // by the names of PEFT
};

// Forward and backward of a golden model with its adapter.
FamilyOutcome ComputeFamily(const std::string& name, const model::LoadOptions& options, const data::PackedBatch& packed,
                            const model::DecoderOptions& how = {});

// The greedy answer of a golden model with its adapter, through the paged cache, is the one of its golden file.
void ExpectGreedyAnswer(const std::string& name, const model::LoadOptions& options);

}  // namespace finetuned::parity
