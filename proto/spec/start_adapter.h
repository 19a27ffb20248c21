#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "finetuned/v1/spec.pb.h"
#include "proto/spec/resolve.h"

namespace finetuned::spec {

// What a job that starts from an adapter takes from it.
struct StartAdapter {
  int64_t rank = 0;
  double alpha = 0;
  bool use_rslora = false;
  std::vector<std::string> target_modules;  // names of linears; "all-linear", or none, for all
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<int64_t> layers;              // empty: all
  bool use_dora = false;
  std::vector<std::string> modules_to_save;
  std::string bias = "none";                // as LoraSpec.bias
};

// What adapter_config.json says (format::PeftConfig).
template <typename Config>
StartAdapter StartAdapterOf(const Config& c) {
  return {c.rank, c.alpha, c.use_rslora, c.target_modules, c.rank_pattern, c.alpha_pattern, c.layers, c.use_dora,
          c.modules_to_save, c.bias};
}

// Fields of `lora` that say something else than the adapter.
std::vector<Violation> CheckStartAdapter(const StartAdapter& adapter, const v1::LoraSpec& lora);

// Fills them in: before ResolveSpec.
void TakeStartAdapter(const StartAdapter& adapter, v1::LoraSpec* lora);

}  // namespace finetuned::spec
