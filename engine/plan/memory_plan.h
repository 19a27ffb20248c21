#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/format/model_config.h"
#include "engine/plan/biases.h"

// Device memory of a training step, buffer by buffer, before anything is allocated. Torch-free: the
// daemon plans and refuses with it, the worker reports it beside what was measured.
namespace finetuned::plan {

// kEvaluate: forward passes alone, with or without an adapter.
enum class Method { kSft, kDpo, kKto, kGrpo, kEvaluate };
// 4-bit codes with a scale per 64 (NF4, FP4), 8-bit codes with a float32 scale per row, or the compute type.
enum class BaseFormat { kNf4, kInt8, kCompute, kFp4, kFp8 };
enum class Optimizer { kAdamW, kAdamW8bit };
// Number format of the frozen products.
enum class MatmulPrecision { kCompute, kFp8, kInt8 };

// What a process takes of a device beside its tensors. The daemon measures the context of its worker; these are upper
// bounds of what an H100 showed (docs/measurements.md), 720 to 733 MB for the context.
struct DeviceConstants {
  int64_t context_bytes = 735'000'000;        // CUDA context and loaded kernels
  int64_t workspace_bytes = 72ll << 20;       // of cuBLAS and cuDNN
  int64_t cpu_process_bytes = 600'000'000;    // code and libraries, where the process is what is measured
  bool cudnn_attention = false;               // compute capability 9.0 and newer: cuDNN runs attention of long documents
};

// Completions that are generated together; none by default.
struct Rollout {
  int64_t sequences = 0;
  int64_t max_tokens = 0;      // prompt and completion of one sequence
  int64_t max_new_tokens = 0;  // of these the completion; 0: not known
};

struct PlanInput {
  format::ModelConfig model;
  Method method = Method::kSft;
  BaseFormat base = BaseFormat::kNf4;
  bool double_quant = true;           // of 4-bit formats: scales as 8-bit codes
  bool int8_products = false;         // of an INT8 base: inputs in INT8 too, but for outlier columns
  std::vector<std::string> skip_modules;  // patterns of linears in the compute type (module_pattern.h)
  bool nf4_lm_head = false;           // an untied lm_head as NF4, too
  bool embed_on_device = false;       // on a GPU: an untied embedding, too, which else lies in host memory
  int64_t compute_bytes = 2;          // bytes of one activation: 2 (bf16) or 4 (f32)
  MatmulPrecision precision = MatmulPrecision::kCompute;
  bool on_gpu = true;
  int64_t lora_rank = 16;
  bool lora_dropout = false;
  bool frozen_adapter = false;        // the reference has an adapter of its own
  std::vector<std::string> target_modules;  // names of linears, "all-linear" allowed
  std::map<std::string, int64_t> rank_pattern;  // other ranks by pattern of the module name (adapter_shape.h)
  std::vector<int64_t> lora_layers;   // with adapters; empty: all
  bool mixed_scaling = false;         // rank_pattern or an alpha_pattern makes scales differ
  bool use_dora = false;
  Biases biases = Biases::kNone;      // that train
  bool train_embed_tokens = false, train_lm_head = false;  // copies of them that train as a whole
  Optimizer optimizer = Optimizer::kAdamW8bit;
  int64_t micro_batch_size = 1;       // rows; pairs for DPO
  int64_t max_seq_length = 1024;
  bool deterministic = false;
  bool activation_checkpointing = false;
  bool activation_offload = false;    // with activation_checkpointing: inputs of layers wait in host memory
  // With activation_checkpointing: of this many of the last layers everything is kept, before these of so many q, k, v
  // and attention's output.
  int64_t keep_all_layers = 0, keep_attention_layers = 0;
  int64_t piece_rows = 0;             // with activation_checkpointing, a multiple of 4; 0: LayerPieceRows
  int64_t standing_layers = -1;       // of a quantized base: see standing_weights.h
  Rollout rollout;                    // GRPO
  DeviceConstants device;

  // Of one micro-batch at its longest.
  int64_t tokens() const;
  // Of these the ones that train: all, but of rollouts the completions.
  int64_t targets() const;
};

// One buffer, or the same buffer once per layer.
struct Buffer {
  std::string name;       // "layer.gate_up"
  std::string component;  // one of Components()
  int64_t bytes = 0;      // of all copies
};

// weights adapter gradients optimizer activations logits kv_cache runtime
const std::vector<std::string>& Components();

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

// Columns of inputs that INT8 products with a threshold multiply in the compute type, at most.
inline constexpr int64_t kInt8Outliers = 64;

// Rows of a weight whose norm DoRA takes at a time.
inline constexpr int64_t kDoraRows = 512;

// Products in INT8 sum so many rows at a time in int32.
inline constexpr int64_t kCodes8SumRows = 1024;

// Rows at a time of a layer whose activations are computed again: 2048 for an intermediate size of 14336, and otherwise
// so many that the pieces are as large, in multiples of 128 between 1024 and 8192. The engine uses the same function.
int64_t LayerPieceRows(int64_t intermediate_size);

// Upper bound of the bytes the engine asks of the device for one micro-batch of input.tokens() tokens,
// everything included. A run's own evaluation at the same length needs no more: it uses the same buffers. Writing an
// adapter takes host memory alone.
MemoryPlan PlanMemory(const PlanInput& input);

// Pinned host memory of offloaded layer inputs: LibTorch rounds each up to a power of two. 0 without activation_offload.
int64_t PlanHostMemory(const PlanInput& input);

// Parameters of the frozen base (embeddings counted once when tied).
int64_t CountParameters(const format::ModelConfig& model);
// Trainable parameters of the adapter.
int64_t CountLoraParameters(const PlanInput& input);

// Names as in a job: "sft" "dpo" "kto" "grpo" "evaluate"; "nf4" "fp4" "int8" "fp8" "none". Unknown ones: kSft, kCompute.
Method ParseMethod(const std::string& name);
BaseFormat ParseBaseFormat(const std::string& name);
const char* BaseFormatName(BaseFormat format);

// "21.8 GB" (decimal, one digit); "35.2 MB" below 100 MB.
std::string FormatGigabytes(int64_t bytes);

}  // namespace finetuned::plan
