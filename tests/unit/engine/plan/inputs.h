#pragma once

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// Llama-3.1-8B shapes.
inline PlanInput Llama8B() {
  PlanInput in;
  format::ModelConfig& m = in.model;
  m.architecture = "llama";
  m.vocab_size = 128256;
  m.hidden_size = 4096;
  m.intermediate_size = 14336;
  m.num_hidden_layers = 32;
  m.num_attention_heads = 32;
  m.num_key_value_heads = 8;
  m.head_dim = 128;
  in.target_modules = {"all-linear"};
  return in;
}

}  // namespace finetuned::plan
