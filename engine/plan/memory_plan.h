#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/format/model_config.h"

// Device memory of a training step, buffer by buffer, before anything is allocated. Torch-free: the
// daemon plans and refuses with it, the worker reports it beside what was measured.
namespace finetuned::plan {

enum class BaseFormat { kNf4, kCompute };  // NF4 with double quantization, or the compute type
enum class Optimizer { kAdamW, kAdamW8bit };

struct PlanInput {
  format::ModelConfig model;
  BaseFormat base = BaseFormat::kNf4;
  int64_t compute_bytes = 2;          // bytes of one activation: 2 (bf16) or 4 (f32)
  bool on_gpu = true;
  int64_t lora_rank = 16;
  std::vector<std::string> target_modules;  // names of linears, "all-linear" allowed
  Optimizer optimizer = Optimizer::kAdamW8bit;
  int64_t micro_batch_size = 1;
  int64_t max_seq_length = 1024;
  bool activation_checkpointing = false;
};

// One buffer, or the same buffer once per layer.
struct Buffer {
  std::string name;       // "layer.gate_up"
  std::string component;  // weights adapter gradients optimizer activations logits runtime
  int64_t bytes = 0;      // of all copies
};

struct MemoryPlan {
  std::vector<Buffer> buffers;
  int64_t total() const;
  int64_t component(const std::string& name) const;
};

// Columns kept free behind a matrix for the adapters' part of a product, so that rows start at multiples of 8. The
// engine uses the same function.
int64_t SpareColumns(int64_t ranks);

// Rows of the logits chunk of lm_head + loss for this vocabulary: at most 256 MiB of float32 logits
// in multiples of 128 rows, between 128 and 1024: enough rows for products at full speed. The engine uses
// the same function.
int64_t LogitsChunkRows(int64_t vocab_size);

// Upper bound of the bytes the engine asks of the device for one micro-batch of
// micro_batch_size * max_seq_length tokens, everything included.
MemoryPlan PlanMemory(const PlanInput& input);

// Parameters of the frozen base (embeddings counted once when tied).
int64_t CountParameters(const format::ModelConfig& model);
// Trainable parameters of the adapter.
int64_t CountLoraParameters(const PlanInput& input);

// Floating point operations of forward and backward for one token at context `length`: 2 per
// multiply-add; frozen linears cost forward and input gradient, adapters and attention all three.
double TrainFlopsPerToken(const PlanInput& input, double mean_length);

// A changed setting that makes the plan fit, cheapest change first.
struct Suggestion {
  PlanInput input;
  std::vector<std::string> fields;  // spec paths that changed, e.g. "schedule.micro_batch_size"
  int64_t total_bytes = 0;
  std::string message;              // "set schedule.micro_batch_size 2: 21.8 GB"
};

// Settings near `input` whose plan fits `budget_bytes`; empty when none does. Every suggestion fits.
std::vector<Suggestion> SuggestFitting(const PlanInput& input, int64_t budget_bytes);

// "21.8 GB" (decimal, one digit); "35.2 MB" below 100 MB.
std::string FormatGigabytes(int64_t bytes);

}  // namespace finetuned::plan
