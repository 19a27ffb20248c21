#include "engine/export/export.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/export/gguf_export.h"
#include "engine/export/gguf_names.h"
#include "engine/export/gguf_types.h"
#include "engine/export/hf_folder_export.h"
#include "engine/export/ollama.h"
#include "engine/export/untied_base.h"
#include "engine/format/dequantize.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/mapped_file.h"
#include "engine/format/sha256.h"

namespace finetuned::exports {
namespace {

namespace fs = std::filesystem;

constexpr char kLoraFile[] = "adapter.gguf";

std::string GgufFile(const ExportOptions& o) { return absl::StrCat("model-", o.quantization, ".gguf"); }

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", format::DisplayName(path)));
}

std::string LoadCommands(const ExportOptions& o) {
  const std::string served = "vllm serve THIS_FOLDER";
  if (o.format == "merged") {
    return absl::StrCat("```bash\n", served, "\n```\n\n```python\nfrom transformers import AutoModelForCausalLM\n",
                        "model = AutoModelForCausalLM.from_pretrained(\"THIS_FOLDER\")\n```\n");
  }
  if (o.format == "peft") {
    return absl::StrCat("```bash\nvllm serve BASE --enable-lora --lora-modules ", o.name,
                        "=THIS_FOLDER\n```\n");
  }
  const bool lora = o.format == "gguf_lora";
  std::string text = lora ? absl::StrCat("```bash\nllama-cli -m BASE.gguf --lora ", kLoraFile, "\n")
                          : absl::StrCat("```bash\nllama-cli -m ", GgufFile(o), "\n");
  if (o.ollama_modelfile) absl::StrAppend(&text, "ollama create NAME -f Modelfile && ollama run NAME\n");
  if (!lora) absl::StrAppend(&text, "vllm serve ", GgufFile(o), " --tokenizer BASE\n");
  return text + "```\n";
}

std::string Readme(const ExportOptions& o) {
  return absl::StrCat("# ", o.name, "\n\n", o.base_name, o.adapter_dir.empty() ? "" : " with a LoRA adapter", ", as ",
                      o.format, o.quantization.empty() ? "" : " " + o.quantization,
                      ", written by finetuned. Files and checksums are in export.json.\n\n", LoadCommands(o));
}

absl::Status CopyPeft(const ExportOptions& o, const std::string& folder) {
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    std::error_code error;
    const bool optional = absl::StartsWith(name, "tokenizer");  // there where it has tokens of its own
    if (optional && !fs::exists(absl::StrCat(o.adapter_dir, "/", name), error)) continue;
    fs::copy_file(absl::StrCat(o.adapter_dir, "/", name), absl::StrCat(folder, "/", name), error);
    if (error) return absl::UnavailableError(absl::StrCat(name, ": cannot be copied: ", error.message()));
  }
  return absl::OkStatus();
}

absl::Status WriteWeights(const ExportOptions& o, const MergedWeights& weights, const std::string& folder,
                          const Progress& progress) {
  if (o.format == "peft") return CopyPeft(o, folder);
  const GgufQuantization* quantization = FindGgufQuantization(o.quantization);
  if (o.format == "merged") {
    return WriteHfFolder(weights, {o.base_path, quantization->type, o.max_shard_bytes}, folder, progress);
  }
  const GgufOptions gguf = {o.base_path, o.name, quantization};
  if (o.format == "gguf_lora") return WriteLoraGguf(weights, gguf, absl::StrCat(folder, "/", kLoraFile), progress);
  return WriteGguf(weights, gguf, absl::StrCat(folder, "/", GgufFile(o)), progress);
}

absl::Status Wrong(const char* field, const std::string& found, const std::vector<std::string>& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("export.", field, ": is \"", found, "\", expected one of ", absl::StrJoin(allowed, ", ")));
}

}  // namespace

absl::Status CheckExportOptions(const ExportOptions& o) {
  const std::vector<std::string> formats = {"peft", "merged", "gguf", "gguf_lora"}, floats = {"bf16", "f16", "f32"};
  const auto among = [](const std::vector<std::string>& list, const std::string& x) {
    return std::find(list.begin(), list.end(), x) != list.end();
  };
  if (!among(formats, o.format)) return Wrong("format", o.format, formats);
  const bool adapter_alone = o.format == "peft" || o.format == "gguf_lora";
  if (adapter_alone && o.adapter_dir.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: export.format ", o.format, " needs an adapter"));
  }
  if (o.format == "merged" && !among(floats, o.quantization)) return Wrong("quantization", o.quantization, floats);
  if (o.format == "gguf" && FindGgufQuantization(o.quantization) == nullptr) {
    return Wrong("quantization", o.quantization, GgufQuantizationNames());
  }
  if (adapter_alone && !o.quantization.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("export.quantization: ", o.format, " has none; leave it empty"));
  }
  if (o.max_shard_bytes < 1) return absl::InvalidArgumentError("export.max_shard_bytes: must be positive");
  return absl::OkStatus();
}

double DefaultPerplexityIncrease(const ExportOptions& o) {
  const GgufQuantization* q = FindGgufQuantization(o.quantization.empty() ? "f32" : o.quantization);
  return q == nullptr ? 0 : q->max_perplexity_increase;
}

absl::Status WriteExport(const ExportOptions& o, std::shared_ptr<const format::ModelSource> base,
                         const std::string& folder, const Progress& progress) {
  if (absl::Status s = CheckExportOptions(o); !s.ok()) return s;
  std::shared_ptr<const AdapterWeights> adapter;
  if (!o.adapter_dir.empty()) {
    const auto own = AdapterWeights::SavesEmbedding(o.adapter_dir);
    if (!own.ok()) return own.status();
    if (*own && base->config().tie_word_embeddings) base = Untied(std::move(base));
    auto opened = AdapterWeights::Open(o.adapter_dir, *base);
    if (!opened.ok()) return opened.status();
    adapter = *std::move(opened);
    if (adapter->modules().empty() && o.format == "gguf_lora") {
      return absl::InvalidArgumentError("the adapter has no LoRA matrices");
    }
  }
  if (absl::Status s = WriteWeights(o, MergedWeights(base, format::DisplayName(o.base_path), adapter), folder, progress); !s.ok()) return s;
  if (o.ollama_modelfile && (o.format == "gguf" || o.format == "gguf_lora")) {
    const bool lora = o.format == "gguf_lora";
    const auto text = OllamaModelfile(*base, lora ? o.base_name : "./" + GgufFile(o), lora ? absl::StrCat("./", kLoraFile) : "");
    if (!text.ok()) return text.status();
    if (absl::Status s = WriteText(folder + "/Modelfile", *text); !s.ok()) return s;
  }
  return WriteText(folder + "/README.md", Readme(o));
}

std::string ModelPathOf(const ExportOptions& o, const std::string& folder) {
  if (o.format == "merged") return folder;
  return o.format == "gguf" ? absl::StrCat(folder, "/", GgufFile(o)) : "";
}

absl::StatusOr<double> LargestDifferenceOfLora(const ExportOptions& o, const format::ModelSource& base,
                                               const std::string& folder) {
  const auto adapter = AdapterWeights::Open(o.adapter_dir, base);
  if (!adapter.ok()) return adapter.status();
  const auto names = GgufNamesOf(base);
  if (!names.ok()) return names.status();
  const auto file = format::MappedFile::Open(absl::StrCat(folder, "/", kLoraFile));
  if (!file.ok()) return file.status();
  const auto gguf = format::ParseGguf((*file)->bytes(), (*file)->name());
  if (!gguf.ok()) return gguf.status();
  const auto alpha = gguf->metadata.Number("adapter.lora.alpha");
  if (!alpha.ok()) return alpha.status();
  std::map<std::string, const format::GgufTensor*> tensors;
  for (const format::GgufTensor& tensor : gguf->tensors) tensors[tensor.info.name] = &tensor;
  double largest = 0;
  const auto compare = [&](const std::string& name, const std::vector<float>& wanted, double scale) {
    const auto it = tensors.find(name);
    std::vector<float> found(wanted.size());
    if (it == tensors.end()) return absl::DataLossError(absl::StrCat(kLoraFile, ": tensor ", name, " is missing"));
    absl::Status s = format::DecodeToF32(it->second->info.dtype,
                                         (*file)->bytes().subspan(it->second->offset, it->second->info.bytes), found);
    for (size_t i = 0; s.ok() && i < found.size(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(found[i]) * scale - static_cast<double>(wanted[i])));
    }
    return s;
  };
  for (const auto& [name, module] : (*adapter)->modules()) {
    auto a = (*adapter)->Read(module.a), b = (*adapter)->Read(module.b);
    if (!a.ok()) return a.status();
    if (!b.ok()) return b.status();
    const int64_t heads = InterleavedHeads(*names, base.config(), name + ".weight");
    if (heads > 0) InterleaveRows(heads, module.out, &*b);
    const std::string& tensor = names->to_gguf.at(name + ".weight");
    const double scale = alpha->value_or(0) / static_cast<double>(module.rank) / module.scaling;
    absl::Status s = compare(tensor + ".lora_a", *a, 1.0);
    if (s.ok()) s = compare(tensor + ".lora_b", *b, scale);
    if (!s.ok()) return s;
  }
  return largest;
}

absl::Status WriteManifest(const ExportOptions& o, const std::map<std::string, double>& measured,
                           const std::string& folder) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    const auto hash = format::Sha256File(path.string());
    if (!hash.ok()) return hash.status();
    files.push_back({{"file", path.filename().string()}, {"bytes", fs::file_size(path)}, {"sha256", *hash}});
  }
  const nlohmann::ordered_json manifest = {{"version", 1},
                                           {"name", o.name},
                                           {"format", o.format},
                                           {"quantization", o.quantization},
                                           {"base_model", o.base_name},
                                           {"measured", measured},
                                           {"files", files}};
  return WriteText(folder + "/export.json", manifest.dump(2) + "\n");
}

}  // namespace finetuned::exports
