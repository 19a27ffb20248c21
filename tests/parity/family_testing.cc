#include "tests/parity/family_testing.h"

#include <ATen/ATen.h>

#include "tests/parity/parity_testing.h"

namespace finetuned::parity {

std::vector<std::string> FamilyNames() {
  return {"nemo",    "mistral", "qwen2",  "qwen3",  "smollm3", "phi3",   "phi3_long",
          "granite", "gemma",   "gemma2", "gemma3", "cohere",  "cohere2"};
}

FamilyOutcome ComputeFamily(const std::string& name, const model::LoadOptions& options, const data::PackedBatch& packed,
                            const model::DecoderOptions& how) {
  const auto base = LoadGoldenModel(name, options);
  const auto adapter = LoadGoldenAdapter(name + "_adapter", *base);
  adapter->RefreshCompute();
  adapter->ZeroGradients();
  const model::DeviceBatch batch = model::Upload(packed, options.device);
  model::Decoder decoder(*base, *adapter, how);
  FamilyOutcome out;
  out.logits = decoder.Logits(batch).cpu().to(at::kFloat);
  at::Tensor sums = at::zeros({model::kLossSums}, at::device(options.device).dtype(at::kDouble));
  const double targets = static_cast<double>(packed.num_targets);
  const at::Tensor scale = at::full({1}, 1.0 / targets, at::device(options.device).dtype(at::kFloat));
  decoder.ForwardBackward(batch, scale, 0, 0, sums);
  out.loss = sums[0].item<double>() / targets;
  for (const lora::Site& site : adapter->sites()) {
    const std::string key =
        "base_model.model.model.layers." + std::to_string(site.layer) + "." + lora::TargetPath(site.target);
    out.grads[key + ".lora_A.weight"] = site.da_RI.cpu().clone();
    out.grads[key + ".lora_B.weight"] = site.db_OR.cpu().clone();
  }
  return out;
}

}  // namespace finetuned::parity
