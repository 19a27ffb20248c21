#include "engine/lora/peft_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <span>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/format/dequantize.h"
#include "engine/format/peft_config.h"
#include "engine/format/safetensors_reader.h"
#include "engine/format/safetensors_writer.h"

namespace finetuned::lora {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr char kPeftVersion[] = "0.21.2";  // whose files these are

// Calls visit(name, float32 tensor) for every tensor that trains.
template <typename Visit>
absl::Status ForEachTensor(const Adapter& adapter, const Visit& visit) {
  for (const NamedParameter& p : adapter.named_parameters()) {
    if (absl::Status status = visit(p.name, p.value); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// PEFT declares lora_alpha an integer but takes fractions.
json Number(double x) {
  const int64_t whole = static_cast<int64_t>(x);
  return static_cast<double>(whole) == x ? json(whole) : json(x);
}

json NumbersJson(const std::map<std::string, double>& numbers) {
  json object = json::object();
  for (const auto& [key, number] : numbers) object[key] = Number(number);
  return object;
}

json ConfigJson(const Adapter& adapter, const PeftDescription& description) {
  const Options& options = adapter.options();
  std::vector<std::string> targets;
  for (Target t : options.targets) targets.push_back(TargetName(t));
  std::sort(targets.begin(), targets.end());
  return {{"alpha_pattern", NumbersJson(options.alpha_pattern)},
          {"auto_mapping", nullptr},
          {"base_model_name_or_path", description.base_model_name},
          {"bias", plan::BiasesName(options.biases)},
          // Linears of the images' part have names of ours.
          {"exclude_modules", adapter.text_prefix().empty() ? json() : json(".*(vision_tower|multi_modal_projector).*")},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"layers_pattern", nullptr},
          {"layers_to_transform", options.layers.empty() ? json() : json(options.layers)},
          {"lora_alpha", Number(options.alpha)},
          {"lora_dropout", options.dropout},
          {"modules_to_save", options.modules_to_save.empty() ? json() : json(options.modules_to_save)},
          {"peft_type", "LORA"},
          {"peft_version", kPeftVersion},
          {"r", options.rank},
          {"rank_pattern", json(options.rank_pattern)},
          {"revision", nullptr},
          {"target_modules", targets},
          {"task_type", "CAUSAL_LM"},
          {"use_dora", options.use_dora},
          {"use_rslora", options.use_rslora}};
}

std::string Readme(const Options& options, const PeftDescription& description) {
  return absl::StrFormat(
      "---\nbase_model: %s\nlibrary_name: peft\ntags:\n- lora\n---\n\n# %s\n\n%s adapter of rank %d "
      "(alpha %g%s) for `%s`, trained by finetuned.\n\n```python\nfrom peft import "
      "AutoPeftModelForCausalLM\nmodel = AutoPeftModelForCausalLM.from_pretrained(\"this folder\")\n"
      "```\n",
      description.base_model_name, description.title, options.use_dora ? "DoRA" : "LoRA", options.rank, options.alpha,
      options.use_rslora ? ", rank-stabilized" : "", description.base_model_name);
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

absl::Status WriteWeights(const Adapter& adapter, const std::string& path) {
  std::vector<format::SafetensorsWriter::Layout> layout;
  absl::Status status = ForEachTensor(adapter, [&](const std::string& name, const at::Tensor& t) {
    layout.push_back({name, format::DType::kF32, t.sizes().vec()});
    return absl::OkStatus();
  });
  auto writer = format::SafetensorsWriter::Create(path, std::move(layout));
  if (!writer.ok()) return writer.status();
  // One copy from the device; the matrices are views of one buffer.
  const at::Tensor host = adapter.parameters().to(at::kCPU);
  status = ForEachTensor(adapter, [&](const std::string& name, const at::Tensor& t) {
    const float* data = host.const_data_ptr<float>() + t.storage_offset();
    return (*writer)->Append(name, {reinterpret_cast<const uint8_t*>(data),
                                    static_cast<size_t>(t.numel()) * sizeof(float)});
  });
  return status.ok() ? (*writer)->Finish() : status;
}

// Names in the file by what they mean (format::AdapterTensorName); others by themselves.
std::map<std::string, std::string> NamesOf(const format::SafetensorsFile& file) {
  std::map<std::string, std::string> names;
  for (const format::TensorInfo& info : file.tensors()) {
    const auto name = format::AdapterTensorName(info.name);
    if (!name.ok() || !name->empty()) names[name.value_or(info.name)] = info.name;
  }
  return names;
}

// One tensor of the file, which must have the shape that base and configuration give it.
absl::Status ReadParameter(const format::SafetensorsFile& file, const std::string& name,
                           const std::vector<int64_t>& shape, std::span<float> out) {
  const std::string where = absl::StrCat(file.file()->name(), ": tensor ", name);
  const format::TensorInfo* info = file.Find(name);
  if (info == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(where, " is missing; expected shape ", format::ShapeString(shape)));
  }
  if (info->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": expected shape ", format::ShapeString(shape),
                                                   ", as base and adapter_config.json have it, found ",
                                                   format::ShapeString(info->shape),
                                                   ": the adapter belongs to another base"));
  }
  auto raw = file.Raw(name);
  if (!raw.ok()) return raw.status();
  if (absl::Status s = format::DecodeToF32(info->dtype, *raw, out); !s.ok()) return s;
  const auto bad = std::find_if(out.begin(), out.end(), [](float x) { return !std::isfinite(x); });
  if (bad == out.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, ": expected finite numbers, found ", *bad, " at ",
                                                 bad - out.begin()));
}

}  // namespace

absl::Status SavePeft(const Adapter& adapter, const PeftDescription& description,
                      const std::string& directory) {
  absl::Status status = WriteText(directory + "/" + kConfigFile,
                                  ConfigJson(adapter, description).dump(2) + "\n");
  if (status.ok()) {
    status = WriteText(directory + "/README.md", Readme(adapter.options(), description));
  }
  if (status.ok() && description.tokenizer != nullptr) {
    status = WriteText(directory + "/tokenizer.json", description.tokenizer->tokenizer_json);
    if (status.ok()) status = WriteText(directory + "/tokenizer_config.json", description.tokenizer->tokenizer_config_json);
  }
  return status.ok() ? WriteWeights(adapter, directory + "/" + kWeightsFile) : status;
}

absl::StatusOr<Options> ReadPeftConfig(const std::string& directory) {
  const auto config = format::ReadPeftConfig(directory);
  if (!config.ok()) return config.status();
  auto targets = ParseTargets(config->target_modules);
  if (!targets.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, "/", kConfigFile, ": target_modules: ", targets.status().message()));
  }
  return Options{.rank = config->rank,
                 .alpha = config->alpha,
                 .dropout = config->dropout,
                 .use_rslora = config->use_rslora,
                 .targets = *std::move(targets),
                 .rank_pattern = config->rank_pattern,
                 .alpha_pattern = config->alpha_pattern,
                 .layers = config->layers,
                 .use_dora = config->use_dora,
                 .modules_to_save = config->modules_to_save,
                 .biases = plan::ParseBiases(config->bias)};
}

absl::Status LoadPeftWeights(const std::string& directory, Adapter* adapter) {
  const std::string path = directory + "/" + kWeightsFile;
  auto file = format::SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  at::Tensor host = at::zeros({adapter->parameters().numel()}, at::kFloat);
  std::map<std::string, std::string> names = NamesOf(**file);
  absl::Status status = ForEachTensor(*adapter, [&](const std::string& wanted, const at::Tensor& t) {
    const auto stored = names.extract(*format::AdapterTensorName(wanted));
    float* out = host.data_ptr<float>() + t.storage_offset();
    return ReadParameter(**file, stored ? stored.mapped() : wanted, t.sizes().vec(), {out, static_cast<size_t>(t.numel())});
  });
  if (!status.ok()) return status;
  if (!names.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": tensor ", names.begin()->second, " does not belong to the adapter of adapter_config.json"));
  }
  adapter->parameters().copy_(host);
  adapter->RefreshCompute();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Adapter>> LoadPeftFolder(const std::string& directory, const format::ModelConfig& config,
                                                        at::Device device, at::ScalarType compute_dtype) {
  const auto options = ReadPeftConfig(directory);
  if (!options.ok()) return options.status();
  auto adapter = std::make_unique<Adapter>(config, *options, device, compute_dtype);
  if (absl::Status s = LoadPeftWeights(directory, adapter.get()); !s.ok()) return s;
  return adapter;
}

}  // namespace finetuned::lora
