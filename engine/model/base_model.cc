#include "engine/model/base_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/format/rope.h"
#include "engine/model/packed_weight.h"
#include "engine/model/weight_upload.h"
#include "engine/plan/head.h"
#include "engine/plan/module_pattern.h"
#include "kernels/codes8.h"

namespace finetuned::model {
namespace {

struct PartSpec {
  std::string name;  // without ".weight"
  int64_t rows = 0;
};

// How LibTorch names a type of stored numbers; nothing for those that must be decoded.
std::optional<at::ScalarType> PlainType(format::DType dtype) {
  switch (dtype) {
    case format::DType::kF32: return at::kFloat;
    case format::DType::kF16: return at::kHalf;
    case format::DType::kBF16: return at::kBFloat16;
    default: return std::nullopt;
  }
}

// Reads the tensors of one source, checked, onto one device.
class Loader {
 public:
  Loader(const format::ModelSource& source, const std::string& path, const LoadOptions& options)
      : source_(source), path_(path), options_(options), skip_(options.skip_modules), upload_(options.device) {}

  // On the device, in a type that holds what is stored. Whether every number is finite is told by CheckFinite.
  absl::StatusOr<at::Tensor> Stored(const std::string& name, std::vector<int64_t> shape) {
    const format::TensorInfo* info = source_.Find(name);
    if (info == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", name, " is missing"));
    }
    if (info->shape != shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ": tensor ", name, " has shape [", absl::StrJoin(info->shape, ", "),
          "], the configuration asks for [", absl::StrJoin(shape, ", "), "]"));
    }
    absl::StatusOr<at::Tensor> tensor = AsStored(*info) ? Copied(*info) : Decoded(*info);
    if (!tensor.ok()) return tensor;
    finite_.emplace_back(info, at::isfinite(*tensor).all());
    if (options_.device.is_cuda()) return tensor;
    if (absl::Status finite = CheckFinite(); !finite.ok()) return finite;  // at once, where nothing waits
    finite_.clear();
    return tensor;
  }

  // In the compute type, on the device.
  absl::StatusOr<at::Tensor> Compute(const std::string& name, std::vector<int64_t> shape) {
    absl::StatusOr<at::Tensor> stored = Stored(name, std::move(shape));
    if (!stored.ok()) return stored;
    return stored->to(options_.dtype);
  }

  // Waits for the device. INVALID_ARGUMENT names the first number that is not finite.
  absl::Status CheckFinite() const {
    if (finite_.empty()) return absl::OkStatus();
    std::vector<at::Tensor> flags;
    for (const auto& [info, flag] : finite_) flags.push_back(flag);
    const at::Tensor all = at::stack(flags).cpu();
    for (size_t t = 0; t < finite_.size(); ++t) {
      if (all[static_cast<int64_t>(t)].item<bool>()) continue;
      const format::TensorInfo& info = *finite_[t].first;
      const absl::StatusOr<at::Tensor> host = Floats(info);
      if (!host.ok()) return host.status();
      const float* data = host->const_data_ptr<float>();
      int64_t i = 0;
      while (i + 1 < host->numel() && std::isfinite(data[i])) ++i;
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": tensor ", info.name, " holds ", data[i], " at element ", i,
                       "; the file is damaged or was saved by a run that diverged"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<FrozenLinear> Linear(const std::vector<PartSpec>& parts, int64_t in) {
    absl::StatusOr<at::Tensor> bias = Bias(parts);
    if (!bias.ok()) return bias.status();
    if (AllSkipped(parts)) return Dense(parts, in, *bias);
    std::vector<StoredMatrix> quantized;
    for (const PartSpec& part : parts) {
      absl::StatusOr<StoredMatrix> matrix = Matrix(part, in);
      if (!matrix.ok()) return matrix.status();
      quantized.push_back(*std::move(matrix));
    }
    FrozenLinear linear = FrozenLinear::Stored(std::move(quantized), in, *bias);
    const auto codes = CodesOf(options_.precision);
    if (codes && (in % kernels::kCodes8Align != 0 || !Aligned(parts))) {
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ": ", parts[0].name, ": compute.matmul_precision fp8 and int8 need matrices whose sides are multiples of ",
          kernels::kCodes8Align, ", this one reads ", in, " inputs; use bf16"));
    }
    if (codes) linear.PrepareCodes(*codes);
    return linear;
  }

  // A head of its own.
  absl::StatusOr<FrozenLinear> Head(int64_t vocab, int64_t hidden) {
    absl::StatusOr<at::Tensor> stored = Stored("lm_head.weight", {vocab, hidden});
    if (!stored.ok()) return stored.status();
    if (!options_.nf4_lm_head) return FrozenLinear::Dense(stored->to(options_.dtype), {});
    return FrozenLinear::Stored({StoreMatrix(*stored, plan::BaseFormat::kNf4, /*double_quant=*/true, options_.dtype)}, hidden, {});
  }

 private:
  plan::BaseFormat FormatOf(const PartSpec& part) const {
    return skip_.Matches(part.name) ? plan::BaseFormat::kCompute : options_.base;
  }
  // As the file has it, where that is what is asked for; else quantized here.
  absl::StatusOr<StoredMatrix> Matrix(const PartSpec& part, int64_t in) {
    const std::string name = part.name + ".weight";
    const plan::BaseFormat format = FormatOf(part);
    const format::TensorInfo* info = source_.Find(name);
    const format::BnbWeight* packed = info == nullptr ? nullptr : source_.Packed(*info);
    if (packed != nullptr && PackedFormat(*packed) == format && packed->shape == std::vector<int64_t>{part.rows, in}) {
      return UploadPacked(*packed, upload_);
    }
    absl::StatusOr<at::Tensor> stored = Stored(name, {part.rows, in});
    if (!stored.ok()) return stored.status();
    return StoreMatrix(*stored, format, options_.double_quant, options_.dtype);
  }
  bool AllSkipped(const std::vector<PartSpec>& parts) const {
    return std::all_of(parts.begin(), parts.end(),
                       [&](const PartSpec& part) { return FormatOf(part) == plan::BaseFormat::kCompute; });
  }

  // Whether the bytes of the file are the tensor. In some GGUF files rows of q_proj and k_proj lie in another order.
  bool AsStored(const format::TensorInfo& info) const {
    if (!PlainType(info.dtype)) return false;
    const bool reordered = absl::StrContains(info.name, ".q_proj.") || absl::StrContains(info.name, ".k_proj.");
    return !(reordered && absl::EndsWith(path_, ".gguf"));
  }

  absl::StatusOr<at::Tensor> Copied(const format::TensorInfo& info) {
    const auto bytes = source_.Raw(info);
    if (!bytes.ok()) return bytes.status();
    return upload_.Copy(*bytes, *PlainType(info.dtype), info.shape);
  }

  absl::StatusOr<at::Tensor> Floats(const format::TensorInfo& info) const {
    at::Tensor host = at::empty(info.shape, at::kFloat);
    const absl::Status read = source_.ReadF32(info, {host.data_ptr<float>(), static_cast<size_t>(host.numel())});
    if (!read.ok()) return read;
    return host;
  }

  absl::StatusOr<at::Tensor> Decoded(const format::TensorInfo& info) const {
    absl::StatusOr<at::Tensor> host = Floats(info);
    if (!host.ok()) return host;
    return host->to(options_.device);
  }

  static bool Aligned(const std::vector<PartSpec>& parts) {
    for (const PartSpec& part : parts) {
      if (part.rows % kernels::kCodes8Align != 0) return false;
    }
    return true;
  }

  absl::StatusOr<FrozenLinear> Dense(const std::vector<PartSpec>& parts, int64_t in,
                                     const at::Tensor& bias) {
    int64_t rows = 0, row = 0;
    for (const PartSpec& part : parts) rows += part.rows;
    at::Tensor weight =
        at::empty({rows, in}, at::TensorOptions().device(options_.device).dtype(options_.dtype));
    for (const PartSpec& part : parts) {
      absl::StatusOr<at::Tensor> stored = Stored(part.name + ".weight", {part.rows, in});
      if (!stored.ok()) return stored.status();
      weight.narrow(0, row, part.rows).copy_(*stored);
      row += part.rows;
    }
    return FrozenLinear::Dense(weight, bias);
  }

  // The biases of all parts, zero where a part has none; undefined when no part has one.
  absl::StatusOr<at::Tensor> Bias(const std::vector<PartSpec>& parts) {
    std::vector<at::Tensor> all;
    bool any = false;
    for (const PartSpec& part : parts) {
      if (source_.Find(part.name + ".bias") == nullptr) {
        all.push_back(at::zeros({part.rows}, at::TensorOptions().device(options_.device)));
        continue;
      }
      absl::StatusOr<at::Tensor> bias = Stored(part.name + ".bias", {part.rows});
      if (!bias.ok()) return bias;
      all.push_back(bias->to(at::kFloat));
      any = true;
    }
    if (!any) return at::Tensor();
    return at::cat(all).to(options_.dtype);
  }

  const format::ModelSource& source_;
  const std::string& path_;
  const LoadOptions& options_;
  const plan::ModulePatterns skip_;
  WeightUpload upload_;
  std::vector<std::pair<const format::TensorInfo*, at::Tensor>> finite_;  // bool each, on the device
};

// Reads the weights of norms as LayerWeights holds them.
class NormLoader {
 public:
  NormLoader(Loader& loader, const format::ModelConfig& m) : loader_(loader), m_(m) {}

  absl::Status Load(const std::string& name, std::vector<int64_t> shape, double multiplier, at::Tensor* out) {
    if (m_.norm == format::NormKind::kRms && multiplier == 1) {
      auto loaded = loader_.Compute(name + ".weight", std::move(shape));
      if (loaded.ok()) *out = *loaded;
      return loaded.status();
    }
    auto loaded = loader_.Stored(name + ".weight", std::move(shape));
    if (!loaded.ok()) return loaded.status();
    *out = loaded->to(at::kFloat).add(m_.norm_weight_plus_one ? 1.0 : 0.0).mul_(multiplier);
    return absl::OkStatus();
  }

 private:
  Loader& loader_;
  const format::ModelConfig& m_;
};

absl::Status LoadLayer(Loader& loader, const format::ModelConfig& m, int64_t index,
                       LayerWeights* layer) {
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  NormLoader norms(loader, m);
  for (const format::LayerNorm& norm : format::LayerNorms(m)) {
    const absl::Status status = norms.Load(prefix + norm.name, norm.shape, 1, &layer->norm(m, norm.name));
    if (!status.ok()) return status;
  }
  const std::vector<format::LayerLinear> linears = format::LayerLinears(m);
  for (size_t first = 0; first < linears.size();) {
    std::vector<PartSpec> parts;
    size_t end = first;
    for (; end < linears.size() && linears[end].group == linears[first].group; ++end) {
      parts.push_back({prefix + linears[end].path, linears[end].out});
    }
    auto loaded = loader.Linear(parts, linears[first].in);
    if (!loaded.ok()) return loaded.status();
    layer->linear(linears[first].group) = *std::move(loaded);
    first = end;
  }
  return absl::OkStatus();
}

}  // namespace

at::Tensor& LayerWeights::norm(const format::ModelConfig& m, const std::string& name) {
  if (name == "input_layernorm") return input_norm_D;
  if (name == format::MlpNormName(m)) return mlp_norm_D;
  if (name == "post_attention_layernorm") return attention_post_norm_D;
  if (name == "post_feedforward_layernorm") return mlp_post_norm_D;
  return name == "self_attn.q_norm" ? q_norm : k_norm;
}

FrozenLinear& LayerWeights::linear(format::LinearGroup group) {
  switch (group) {
    case format::LinearGroup::kQkv: return qkv;
    case format::LinearGroup::kO: return o;
    case format::LinearGroup::kGateUp: return gate_up;
    case format::LinearGroup::kDown: break;
  }
  return down;
}

int64_t BaseModel::bytes() const {
  auto of = [](const at::Tensor& t) { return t.defined() ? static_cast<int64_t>(t.nbytes()) : 0; };
  int64_t sum = lm_head.bytes() + of(final_norm_D) + of(inv_freq) + of(long_inv_freq) + of(local_inv_freq);
  if (!config.tie_word_embeddings && embed_VD.device() == final_norm_D.device()) sum += of(embed_VD);
  for (const LayerWeights& l : layers) {
    sum += of(l.input_norm_D) + of(l.mlp_norm_D) + of(l.attention_post_norm_D) + of(l.mlp_post_norm_D) + of(l.q_norm) +
           of(l.k_norm) + l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
  }
  return sum;
}

std::optional<at::ScalarType> CodesOf(plan::MatmulPrecision precision) {
  switch (precision) {
    case plan::MatmulPrecision::kFp8: return at::kFloat8_e4m3fn;
    case plan::MatmulPrecision::kInt8: return at::kChar;
    case plan::MatmulPrecision::kCompute: break;
  }
  return std::nullopt;
}

plan::PlanInput PlanInputOf(const BaseModel& base) {
  plan::PlanInput input;
  input.model = base.config;
  input.base = base.options.base;
  input.double_quant = base.options.double_quant;
  input.int8_products = base.options.base == plan::BaseFormat::kInt8 && base.options.int8_threshold > 0;
  input.skip_modules = base.options.skip_modules;
  input.compute_bytes = base.options.dtype == at::kFloat ? 4 : 2;
  input.precision = base.options.precision;
  input.on_gpu = base.options.device.is_cuda();
  input.nf4_lm_head = base.options.nf4_lm_head;
  input.embed_on_device = base.options.embed_on_device;
  return input;
}

at::Tensor PlaceEmbedding(const at::Tensor& embed_VD, const format::ModelConfig& config, const LoadOptions& options) {
  const bool on_device = !options.device.is_cuda() || config.tie_word_embeddings || options.embed_on_device;
  if (on_device) return embed_VD.to(options.device);
  at::Tensor host = at::empty(embed_VD.sizes(), embed_VD.options().device(at::kCPU).pinned_memory(true));
  host.copy_(embed_VD);
  return host;
}

void SetFrequencies(BaseModel* model) {
  const format::ModelConfig& m = model->config;
  const auto table = [&](format::RopeTable which) {
    return at::tensor(format::InverseFrequencies(m, which)).to(at::kFloat).to(model->options.device);
  };
  model->inv_freq = table(format::RopeTable::kMain);
  if (!m.rope_scaling.long_divisors.empty()) model->long_inv_freq = table(format::RopeTable::kLong);
  if (m.local_rope_theta > 0) model->local_inv_freq = table(format::RopeTable::kLocal);
}

absl::StatusOr<std::shared_ptr<BaseModel>> LoadBaseModel(const format::ModelSource& source,
                                                         const std::string& path,
                                                         const LoadOptions& options) {
  const format::ModelConfig& m = source.config();
  auto model = std::make_shared<BaseModel>();
  model->config = m;
  model->options = options;
  model->fingerprint = source.fingerprint();
  if (options.nf4_lm_head && m.tie_word_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", plan::kTiedHead));
  }
  Loader loader(source, path, options);
  absl::StatusOr<at::Tensor> t = loader.Compute("model.embed_tokens.weight", {m.vocab_size, m.hidden_size});
  if (!t.ok()) return t.status();
  model->embed_VD = PlaceEmbedding(*t, m, options);
  t->reset();  // the head may have its memory
  if (m.tie_word_embeddings) {
    model->lm_head = FrozenLinear::Dense(model->embed_VD, {});
  } else {
    absl::StatusOr<FrozenLinear> head = loader.Head(m.vocab_size, m.hidden_size);
    if (!head.ok()) return head.status();
    model->lm_head = *std::move(head);
  }
  absl::Status norm =
      NormLoader(loader, m).Load("model.norm", {m.hidden_size}, m.logits_multiplier, &model->final_norm_D);
  if (!norm.ok()) return norm;
  model->layers.resize(m.num_hidden_layers);
  for (int64_t i = 0; i < m.num_hidden_layers; ++i) {
    if (absl::Status s = LoadLayer(loader, m, i, &model->layers[i]); !s.ok()) return s;
  }
  if (absl::Status s = loader.CheckFinite(); !s.ok()) return s;
  SetFrequencies(model.get());
  return model;
}

}  // namespace finetuned::model
