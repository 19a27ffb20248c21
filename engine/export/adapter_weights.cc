#include "engine/export/adapter_weights.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/format/dequantize.h"
#include "engine/format/mapped_file.h"
#include "engine/format/peft_config.h"
#include "engine/format/strict_json.h"

namespace finetuned::exports {
namespace {

using nlohmann::json;

constexpr char kWeightsFile[] = "adapter_model.safetensors";

// What scales the modules.
struct Scales {
  double alpha = 8;
  bool rslora = false;
  std::vector<std::pair<std::regex, double>> alpha_pattern;

  double AlphaOf(const std::string& module) const {
    for (const auto& [pattern, value] : alpha_pattern) {
      if (std::regex_match(module, pattern)) return value;
    }
    return alpha;
  }
};

absl::StatusOr<Scales> ReadScales(const std::string& text, const std::string& path) {
  const absl::StatusOr<json> config = format::ParseStrictJson(text, path);
  if (!config.ok()) return config.status();
  try {
    if (config->value("peft_type", "") != "LORA") {
      return absl::InvalidArgumentError(absl::StrCat(path, ": peft_type: expected \"LORA\", found ",
                                                     config->value("peft_type", json()).dump()));
    }
    if (config->value("fan_in_fan_out", false)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": fan_in_fan_out: expected false, found true"));
    }
    Scales scales;
    scales.alpha = config->value("lora_alpha", 8.0);
    scales.rslora = config->value("use_rslora", false);
    const json patterns = config->value("alpha_pattern", json::object());
    for (const auto& [pattern, value] : patterns.items()) {
      scales.alpha_pattern.emplace_back(std::regex("(.*\\.)?(" + pattern + ")"), value.get<double>());
    }
    return scales;
  } catch (const std::exception& e) {  // a value of another type, or a pattern that is no regular expression
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  }
}

absl::Status Expected(const std::string& path, const std::string& tensor, std::span<const int64_t> expected,
                      std::span<const int64_t> found) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", tensor, ": expected shape ",
                                                 format::ShapeString(expected), ", as the base has it, found ",
                                                 format::ShapeString(found),
                                                 ": the adapter belongs to another base"));
}

}  // namespace

absl::StatusOr<bool> AdapterWeights::SavesEmbedding(const std::string& folder) {
  const auto file = format::SafetensorsFile::Open(absl::StrCat(folder, "/", kWeightsFile));
  if (!file.ok()) return file.status();
  for (const format::TensorInfo& tensor : (*file)->tensors()) {
    const auto name = format::AdapterTensorName(tensor.name);
    if (name.ok() && (*name == "model.embed_tokens.weight" || *name == "lm_head.weight")) return true;
  }
  return false;
}

absl::StatusOr<std::shared_ptr<const AdapterWeights>> AdapterWeights::Open(const std::string& folder,
                                                                           const format::ModelSource& base) {
  const auto config = format::ReadSmallFile(folder + "/adapter_config.json", 1 << 20);
  if (!config.ok()) return config.status();
  const std::string path = absl::StrCat(folder, "/", kWeightsFile);
  auto file = format::SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  auto weights = std::make_shared<AdapterWeights>();
  weights->file_ = *file;
  if (absl::Status s = weights->Index(format::DisplayName(path), *config, base); !s.ok()) return s;
  return std::shared_ptr<const AdapterWeights>(std::move(weights));
}

absl::Status AdapterWeights::Index(const std::string& path, const std::string& config_text,
                                   const format::ModelSource& base) {
  const absl::StatusOr<Scales> scales = ReadScales(config_text, path);
  if (!scales.ok()) return scales.status();
  for (const format::TensorInfo& tensor : file_->tensors()) {
    const absl::StatusOr<std::string> base_name = format::AdapterTensorName(tensor.name);
    if (!base_name.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", tensor.name, ": ", base_name.status().message()));
    }
    if (base_name->empty()) continue;
    absl::string_view name = *base_name;
    if (absl::ConsumeSuffix(&name, ".lora_A.weight")) {
      modules_[std::string(name)].a = tensor.name;
    } else if (absl::ConsumeSuffix(&name, ".lora_B.weight")) {
      modules_[std::string(name)].b = tensor.name;
    } else if (absl::ConsumeSuffix(&name, ".lora_magnitude_vector") ||
               absl::ConsumeSuffix(&name, ".lora_magnitude_vector.weight")) {
      modules_[std::string(name)].magnitude = tensor.name;
    } else if (const format::TensorInfo* in_base = base.Find(std::string(name))) {
      if (in_base->shape != tensor.shape) return Expected(path, tensor.name, in_base->shape, tensor.shape);
      replaced_[std::string(name)] = tensor.name;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", tensor.name,
                                                     ": neither a LoRA matrix nor a tensor of the base"));
    }
  }
  for (auto& [name, module] : modules_) {
    const format::TensorInfo* weight = base.Find(name + ".weight");
    if (weight == nullptr || weight->shape.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": module ", name,
                                                     ": the base has no such linear: the adapter belongs to another base"));
    }
    const format::TensorInfo* a = module.a.empty() ? nullptr : file_->Find(module.a);
    const format::TensorInfo* b = module.b.empty() ? nullptr : file_->Find(module.b);
    if (a == nullptr || b == nullptr || a->shape.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": module ", name, ": expected lora_A and lora_B"));
    }
    module.out = weight->shape[0], module.in = weight->shape[1], module.rank = a->shape[0];
    const int64_t a_shape[] = {module.rank, module.in}, b_shape[] = {module.out, module.rank}, m_shape[] = {module.out};
    if (!std::equal(a->shape.begin(), a->shape.end(), a_shape, a_shape + 2)) return Expected(path, module.a, a_shape, a->shape);
    if (!std::equal(b->shape.begin(), b->shape.end(), b_shape, b_shape + 2)) return Expected(path, module.b, b_shape, b->shape);
    if (!module.magnitude.empty()) {
      const format::TensorInfo* m = file_->Find(module.magnitude);
      if (!std::equal(m->shape.begin(), m->shape.end(), m_shape, m_shape + 1)) {
        return Expected(path, module.magnitude, m_shape, m->shape);
      }
    }
    const double rank = static_cast<double>(module.rank);
    module.alpha = scales->AlphaOf(name);
    module.scaling = module.alpha / (scales->rslora ? std::sqrt(rank) : rank);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> AdapterWeights::Read(const std::string& tensor) const {
  const format::TensorInfo* info = file_->Find(tensor);
  if (info == nullptr) return absl::NotFoundError(absl::StrCat("the adapter has no tensor ", tensor));
  const absl::StatusOr<int64_t> count = format::ElementCount(info->shape);
  if (!count.ok()) return count.status();
  const auto raw = file_->Raw(tensor);
  if (!raw.ok()) return raw.status();
  std::vector<float> numbers(*count);
  if (absl::Status s = format::DecodeToF32(info->dtype, *raw, numbers); !s.ok()) return s;
  for (float x : numbers) {
    if (!std::isfinite(x)) {
      return absl::InvalidArgumentError(absl::StrCat(file_->file()->name(), ": tensor ", tensor,
                                                     ": expected finite numbers, found ", x));
    }
  }
  return numbers;
}

absl::Status AdapterWeights::MergeInto(const std::string& tensor, std::span<float> weights) const {
  if (const auto it = replaced_.find(tensor); it != replaced_.end()) {
    const auto numbers = Read(it->second);
    if (!numbers.ok()) return numbers.status();
    std::copy(numbers->begin(), numbers->end(), weights.begin());
    return absl::OkStatus();
  }
  const auto it = modules_.find(std::string(absl::StripSuffix(tensor, ".weight")));
  if (it == modules_.end() || !absl::EndsWith(tensor, ".weight")) return absl::OkStatus();
  const Module& m = it->second;
  const auto a_RI = Read(m.a), b_OR = Read(m.b);
  if (!a_RI.ok()) return a_RI.status();
  if (!b_OR.ok()) return b_OR.status();
  std::vector<float> magnitude;
  if (!m.magnitude.empty()) {
    auto read = Read(m.magnitude);
    if (!read.ok()) return read.status();
    magnitude = *std::move(read);
  }
  const float scaling = static_cast<float>(m.scaling);
  std::vector<float> delta(m.in);
  for (int64_t o = 0; o < m.out; ++o) {
    std::fill(delta.begin(), delta.end(), 0.0f);
    for (int64_t r = 0; r < m.rank; ++r) {
      const float b = (*b_OR)[o * m.rank + r];
      const float* a = a_RI->data() + r * m.in;
      for (int64_t i = 0; i < m.in; ++i) delta[i] += b * a[i];
    }
    float* row = weights.data() + o * m.in;
    double squares = 0;
    for (int64_t i = 0; i < m.in; ++i) {
      row[i] += scaling * delta[i];
      squares += static_cast<double>(row[i]) * row[i];
    }
    if (magnitude.empty()) continue;
    const float factor = magnitude[o] / static_cast<float>(std::sqrt(squares));
    for (int64_t i = 0; i < m.in; ++i) row[i] *= factor;
  }
  return absl::OkStatus();
}

}  // namespace finetuned::exports
