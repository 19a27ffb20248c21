#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/export/merged_weights.h"

// A base with its adapter in a format that other tools load. Torch-free.
namespace finetuned::exports {

struct ExportOptions {
  std::string format = "gguf";       // "peft", "merged", "gguf", "gguf_lora"
  std::string quantization;          // of "merged": bf16, f16, f32; of "gguf": GgufQuantizationNames()
  int64_t max_shard_bytes = 5'000'000'000;  // of "merged"
  bool ollama_modelfile = false;     // of "gguf" and "gguf_lora"
  std::string base_path, base_name;  // where it lies, and what it is called in the texts
  std::string adapter_dir;           // PEFT folder; empty: the base alone ("merged" and "gguf")
  std::string name;                  // of the export: general.name of GGUF
};

// INVALID_ARGUMENT naming the option.
absl::Status CheckExportOptions(const ExportOptions& options);

// Rise of the perplexity, as a ratio to base + adapter, that still counts as good.
double DefaultPerplexityIncrease(const ExportOptions& options);

// Writes weights, texts, a README.md with the commands that load them and, if asked, a Modelfile into an empty folder;
// syncing it is up to the caller. Needs memory for the largest tensor in float32 beside its encoded form. Errors of
// WriteHfFolder and WriteGguf; INVALID_ARGUMENT for an adapter of another base.
absl::Status WriteExport(const ExportOptions& options, std::shared_ptr<const format::ModelSource> base,
                         const std::string& folder, const Progress& progress);

// What the engine opens to check the result: the folder, or the GGUF file in it. Empty for "peft" and "gguf_lora".
std::string ModelPathOf(const ExportOptions& options, const std::string& folder);

// For "gguf_lora": reads the file back and compares it with the adapter. Returns the largest difference of a number.
absl::StatusOr<double> LargestDifferenceOfLora(const ExportOptions& options, const format::ModelSource& base,
                                               const std::string& folder);

// export.json: what was exported, every file with size and sha256, and what the check measured.
absl::Status WriteManifest(const ExportOptions& options, const std::map<std::string, double>& measured,
                           const std::string& folder);

}  // namespace finetuned::exports
