#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// Jobs that train nothing: plain structs beside train_spec.h, free of LibTorch and of protobuf.
namespace finetuned::job {

// What both kinds share.
struct ToolSpec {
  std::string job_name;
  std::string base_model_path;      // .gguf or Hugging Face folder
  std::string base_model_name;
  std::string adapter_dir;          // PEFT folder; empty: the base alone
  std::string dataset_path;         // rows to measure on; empty: built-in sentences
  std::string state_dir;            // owned by this run (flock)
  std::string device = "auto";      // auto | cpu | cuda
  std::string compute_dtype = "auto";
  int64_t max_seq_length = 1024;
  int64_t max_tokens = 0;           // measured at most; 0: all
  bool double_quant = true;         // of quantized bases, as in train_spec.h, like the next ones
  double int8_threshold = 0;
  std::string lm_head_quantization = "none";
  std::vector<std::string> skip_modules;
  int cpu_threads = 0;              // 0: all cores
};

struct ExportSpec : ToolSpec {
  std::string format, quantization;           // as exports::ExportOptions
  int64_t max_shard_bytes = 5'000'000'000;
  bool ollama_modelfile = false;
  std::optional<double> max_perplexity_increase;  // unset: exports::DefaultPerplexityIncrease
};

struct EvaluateSpec : ToolSpec {
  std::vector<std::string> bases;              // as base_quantization of train_spec.h; at least one
  std::vector<std::string> matmul_precisions;  // "bf16", "fp8", "int8"; at least one
};

}  // namespace finetuned::job
