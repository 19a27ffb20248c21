#include "engine/lora/peft_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <span>
#include <sstream>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/format/dequantize.h"
#include "engine/format/safetensors_reader.h"
#include "engine/format/safetensors_writer.h"
#include "engine/format/strict_json.h"

namespace finetuned::lora {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr char kPeftVersion[] = "0.21.2";  // whose files these are

std::string TensorName(const Site& site, const char* matrix) {
  return absl::StrCat("base_model.model.model.layers.", site.layer, ".", TargetPath(site.target),
                      ".", matrix, ".weight");
}

// Calls visit(name, float32 tensor) for every matrix.
template <typename Visit>
absl::Status ForEachMatrix(const Adapter& adapter, const Visit& visit) {
  for (const Site& site : adapter.sites()) {
    absl::Status status = visit(TensorName(site, "lora_A"), site.a_RI);
    if (status.ok()) status = visit(TensorName(site, "lora_B"), site.b_OR);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// PEFT declares lora_alpha an integer but takes fractions.
json Number(double x) {
  const int64_t whole = static_cast<int64_t>(x);
  return static_cast<double>(whole) == x ? json(whole) : json(x);
}

json ConfigJson(const Options& options, const PeftDescription& description) {
  std::vector<std::string> targets;
  for (Target t : options.targets) targets.push_back(TargetName(t));
  std::sort(targets.begin(), targets.end());
  return {{"alpha_pattern", json::object()},
          {"auto_mapping", nullptr},
          {"base_model_name_or_path", description.base_model_name},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"layers_pattern", nullptr},
          {"layers_to_transform", nullptr},
          {"lora_alpha", Number(options.alpha)},
          {"lora_dropout", options.dropout},
          {"modules_to_save", nullptr},
          {"peft_type", "LORA"},
          {"peft_version", kPeftVersion},
          {"r", options.rank},
          {"rank_pattern", json::object()},
          {"revision", nullptr},
          {"target_modules", targets},
          {"task_type", "CAUSAL_LM"},
          {"use_dora", false},
          {"use_rslora", options.use_rslora}};
}

std::string Readme(const Options& options, const PeftDescription& description) {
  return absl::StrFormat(
      "---\nbase_model: %s\nlibrary_name: peft\ntags:\n- lora\n---\n\n# %s\n\nLoRA adapter of rank %d "
      "(alpha %g%s) for `%s`, trained by finetuned.\n\n```python\nfrom peft import "
      "AutoPeftModelForCausalLM\nmodel = AutoPeftModelForCausalLM.from_pretrained(\"this folder\")\n"
      "```\n",
      description.base_model_name, description.title, options.rank, options.alpha,
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
  absl::Status status = ForEachMatrix(adapter, [&](const std::string& name, const at::Tensor& t) {
    layout.push_back({name, format::DType::kF32, t.sizes().vec()});
    return absl::OkStatus();
  });
  auto writer = format::SafetensorsWriter::Create(path, std::move(layout));
  if (!writer.ok()) return writer.status();
  // One copy from the device; the matrices are views of one buffer.
  const at::Tensor host = adapter.parameters().to(at::kCPU);
  status = ForEachMatrix(adapter, [&](const std::string& name, const at::Tensor& t) {
    const float* data = host.const_data_ptr<float>() + t.storage_offset();
    return (*writer)->Append(name, {reinterpret_cast<const uint8_t*>(data),
                                    static_cast<size_t>(t.numel()) * sizeof(float)});
  });
  return status.ok() ? (*writer)->Finish() : status;
}

absl::Status Unsupported(const std::string& path, const std::string& key, const json& value) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", key, " is ", value.dump(),
                                                 ", which this version cannot continue"));
}

bool IsPlain(const json& value) {
  return value.is_null() || value == false || value == "none" ||
         ((value.is_object() || value.is_array()) && value.empty());
}

}  // namespace

absl::Status SavePeft(const Adapter& adapter, const PeftDescription& description,
                      const std::string& directory) {
  absl::Status status = WriteText(directory + "/" + kConfigFile,
                                  ConfigJson(adapter.options(), description).dump(2) + "\n");
  if (status.ok()) {
    status = WriteText(directory + "/README.md", Readme(adapter.options(), description));
  }
  return status.ok() ? WriteWeights(adapter, directory + "/" + kWeightsFile) : status;
}

absl::StatusOr<Options> ReadPeftConfig(const std::string& directory) {
  const std::string path = directory + "/" + kConfigFile;
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream text;
  text << in.rdbuf();
  absl::StatusOr<json> config = format::ParseStrictJson(text.str(), path);
  if (!config.ok()) return config.status();
  if (!config->is_object() || config->value("peft_type", json()) != "LORA") {
    return absl::InvalidArgumentError(absl::StrCat(path, ": peft_type is not \"LORA\""));
  }
  for (const char* key : {"use_dora", "bias", "rank_pattern", "alpha_pattern", "modules_to_save",
                          "layers_to_transform", "lora_bias", "target_parameters"}) {
    if (config->contains(key) && !IsPlain((*config)[key])) {
      return Unsupported(path, key, (*config)[key]);
    }
  }
  Options options;
  try {
    options.rank = config->value("r", int64_t{8});
    options.alpha = config->value("lora_alpha", 8.0);
    options.dropout = config->value("lora_dropout", 0.0);
    options.use_rslora = config->value("use_rslora", false);
    const json targets = config->value("target_modules", json::array());
    if (targets.is_string() && targets != "all-linear") {
      return Unsupported(path, "target_modules", targets);
    }
    const auto names = targets.is_string() ? std::vector<std::string>{targets.get<std::string>()}
                                           : targets.get<std::vector<std::string>>();
    auto parsed = ParseTargets(names);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": target_modules: ", parsed.status().message()));
    }
    options.targets = *parsed;
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  }
  if (options.rank <= 0) return Unsupported(path, "r", options.rank);
  return options;
}

absl::Status LoadPeftWeights(const std::string& directory, Adapter* adapter) {
  const std::string path = directory + "/" + kWeightsFile;
  auto file = format::SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  at::Tensor host = at::zeros({adapter->parameters().numel()}, at::kFloat);
  std::set<std::string> known;
  absl::Status status = ForEachMatrix(*adapter, [&](const std::string& name, const at::Tensor& t) {
    known.insert(name);
    const format::TensorInfo* info = (*file)->Find(name);
    if (info == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", name, " is missing"));
    }
    if (info->shape != t.sizes().vec()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor ", name, " has shape ", format::ShapeString(info->shape), ", expected ",
          format::ShapeString(t.sizes().vec())));
    }
    auto raw = (*file)->Raw(name);
    if (!raw.ok()) return raw.status();
    float* out = host.data_ptr<float>() + t.storage_offset();
    return format::DecodeToF32(info->dtype, *raw, {out, static_cast<size_t>(t.numel())});
  });
  if (!status.ok()) return status;
  for (const format::TensorInfo& info : (*file)->tensors()) {
    if (known.count(info.name) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor ", info.name, " does not belong to the adapter of adapter_config.json"));
    }
  }
  adapter->parameters().copy_(host);
  adapter->RefreshCompute();
  return absl::OkStatus();
}

}  // namespace finetuned::lora
