#pragma once

#include <string_view>

namespace finetuned::plan {

// Which biases of the base train, as PEFT's "bias" has it: none, all, or those of linears that have an adapter.
enum class Biases { kNone, kAll, kLoraOnly };

// "none" "all" "lora_only", as in a job and in adapter_config.json. Unknown ones: kNone.
inline Biases ParseBiases(std::string_view name) {
  if (name == "all") return Biases::kAll;
  return name == "lora_only" ? Biases::kLoraOnly : Biases::kNone;
}
inline const char* BiasesName(Biases biases) {
  if (biases == Biases::kAll) return "all";
  return biases == Biases::kLoraOnly ? "lora_only" : "none";
}

// Whether the bias of a linear that has one trains.
inline bool TrainsBias(Biases biases, bool adapted) {
  return biases == Biases::kAll || (biases == Biases::kLoraOnly && adapted);
}

}  // namespace finetuned::plan
