#include "engine/model/base_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/format/rope.h"

namespace finetuned::model {
namespace {

struct PartSpec {
  std::string name;  // without ".weight"
  int64_t rows = 0;
};

// Reads the tensors of one source, checked, onto one device.
class Loader {
 public:
  Loader(const format::ModelSource& source, const std::string& path, const LoadOptions& options)
      : source_(source), path_(path), options_(options) {}

  absl::StatusOr<at::Tensor> Float(const std::string& name, std::vector<int64_t> shape) {
    const format::TensorInfo* info = source_.Find(name);
    if (info == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", name, " is missing"));
    }
    if (info->shape != shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ": tensor ", name, " has shape [", absl::StrJoin(info->shape, ", "),
          "], the configuration asks for [", absl::StrJoin(shape, ", "), "]"));
    }
    at::Tensor host = at::empty(shape, at::kFloat);
    float* data = host.data_ptr<float>();
    const size_t n = static_cast<size_t>(host.numel());
    if (absl::Status s = source_.ReadF32(*info, {data, n}); !s.ok()) return s;
    for (size_t i = 0; i < n; ++i) {
      if (!std::isfinite(data[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": tensor ", name, " holds ", data[i], " at element ", i,
                         "; the file is damaged or was saved by a run that diverged"));
      }
    }
    return host;
  }

  // In the compute type, on the device.
  absl::StatusOr<at::Tensor> Compute(const std::string& name, std::vector<int64_t> shape) {
    absl::StatusOr<at::Tensor> host = Float(name, std::move(shape));
    if (!host.ok()) return host;
    return host->to(options_.device, options_.dtype);
  }

  absl::StatusOr<FrozenLinear> Linear(const std::vector<PartSpec>& parts, int64_t in) {
    absl::StatusOr<at::Tensor> bias = Bias(parts);
    if (!bias.ok()) return bias.status();
    if (!options_.nf4) return Dense(parts, in, *bias);
    std::vector<kernels::Nf4Tensor> quantized;
    for (const PartSpec& part : parts) {
      absl::StatusOr<at::Tensor> host = Float(part.name + ".weight", {part.rows, in});
      if (!host.ok()) return host.status();
      quantized.push_back(
          kernels::Nf4Quantize(host->to(options_.device), /*double_quant=*/true));
    }
    return FrozenLinear::Nf4(std::move(quantized), in, *bias);
  }

 private:
  absl::StatusOr<FrozenLinear> Dense(const std::vector<PartSpec>& parts, int64_t in,
                                     const at::Tensor& bias) {
    int64_t rows = 0, row = 0;
    for (const PartSpec& part : parts) rows += part.rows;
    at::Tensor weight =
        at::empty({rows, in}, at::TensorOptions().device(options_.device).dtype(options_.dtype));
    for (const PartSpec& part : parts) {
      absl::StatusOr<at::Tensor> host = Float(part.name + ".weight", {part.rows, in});
      if (!host.ok()) return host.status();
      weight.narrow(0, row, part.rows).copy_(*host);
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
        all.push_back(at::zeros({part.rows}, at::kFloat));
        continue;
      }
      absl::StatusOr<at::Tensor> bias = Float(part.name + ".bias", {part.rows});
      if (!bias.ok()) return bias;
      all.push_back(*bias);
      any = true;
    }
    if (!any) return at::Tensor();
    return at::cat(all).to(options_.device, options_.dtype);
  }

  const format::ModelSource& source_;
  const std::string& path_;
  const LoadOptions& options_;
};

absl::Status LoadLayer(Loader& loader, const format::ModelConfig& m, int64_t index,
                       LayerWeights* layer) {
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  auto norm = [&](const char* name, at::Tensor* out) -> absl::Status {
    auto loaded = loader.Compute(prefix + name + ".weight", {m.hidden_size});
    if (loaded.ok()) *out = *loaded;
    return loaded.status();
  };
  auto linear = [&](std::vector<PartSpec> parts, int64_t in, FrozenLinear* out) -> absl::Status {
    for (PartSpec& part : parts) part.name = prefix + part.name;
    auto loaded = loader.Linear(parts, in);
    if (loaded.ok()) *out = *std::move(loaded);
    return loaded.status();
  };
  absl::Status status = norm("input_layernorm", &layer->input_norm_D);
  if (status.ok()) status = norm("post_attention_layernorm", &layer->post_norm_D);
  if (status.ok()) {
    status = linear({{"self_attn.q_proj", m.q_size()},
                     {"self_attn.k_proj", m.kv_size()},
                     {"self_attn.v_proj", m.kv_size()}},
                    m.hidden_size, &layer->qkv);
  }
  if (status.ok()) {
    status = linear({{"self_attn.o_proj", m.hidden_size}}, m.q_size(), &layer->o);
  }
  if (status.ok()) {
    status = linear({{"mlp.gate_proj", m.intermediate_size}, {"mlp.up_proj", m.intermediate_size}},
                    m.hidden_size, &layer->gate_up);
  }
  if (status.ok()) {
    status = linear({{"mlp.down_proj", m.hidden_size}}, m.intermediate_size, &layer->down);
  }
  return status;
}

}  // namespace

int64_t BaseModel::bytes() const {
  auto of = [](const at::Tensor& t) { return static_cast<int64_t>(t.nbytes()); };
  int64_t sum = of(lm_head_VD) + of(final_norm_D) + of(inv_freq);
  if (!lm_head_VD.is_same(embed_VD) && embed_VD.device() == lm_head_VD.device()) sum += of(embed_VD);
  for (const LayerWeights& l : layers) {
    sum += of(l.input_norm_D) + of(l.post_norm_D) + l.qkv.bytes() + l.o.bytes() +
           l.gate_up.bytes() + l.down.bytes();
  }
  return sum;
}

plan::PlanInput PlanInputOf(const BaseModel& base) {
  plan::PlanInput input;
  input.model = base.config;
  input.base = base.options.nf4 ? plan::BaseFormat::kNf4 : plan::BaseFormat::kCompute;
  input.compute_bytes = base.options.dtype == at::kFloat ? 4 : 2;
  input.on_gpu = base.options.device.is_cuda();
  return input;
}

at::Tensor PlaceEmbedding(const at::Tensor& embed_VD, const format::ModelConfig& config,
                          at::Device device) {
  if (!device.is_cuda() || config.tie_word_embeddings) return embed_VD.to(device);
  return embed_VD.cpu().pin_memory();
}

at::Tensor InverseFrequencies(const format::ModelConfig& config, at::Device device) {
  return at::tensor(format::InverseFrequencies(config)).to(at::kFloat).to(device);
}

absl::StatusOr<std::shared_ptr<BaseModel>> LoadBaseModel(const format::ModelSource& source,
                                                         const std::string& path,
                                                         const LoadOptions& options) {
  const format::ModelConfig& m = source.config();
  auto model = std::make_shared<BaseModel>();
  model->config = m;
  model->options = options;
  model->fingerprint = source.fingerprint();
  Loader loader(source, path, options);
  absl::StatusOr<at::Tensor> t =
      loader.Compute("model.embed_tokens.weight", {m.vocab_size, m.hidden_size});
  if (!t.ok()) return t.status();
  model->embed_VD = model->lm_head_VD = *t;
  if (!m.tie_word_embeddings) {
    t = loader.Compute("lm_head.weight", {m.vocab_size, m.hidden_size});
    if (!t.ok()) return t.status();
    model->lm_head_VD = *t;
    model->embed_VD = PlaceEmbedding(model->embed_VD, m, options.device);
  }
  t = loader.Compute("model.norm.weight", {m.hidden_size});
  if (!t.ok()) return t.status();
  model->final_norm_D = *t;
  model->layers.resize(m.num_hidden_layers);
  for (int64_t i = 0; i < m.num_hidden_layers; ++i) {
    if (absl::Status s = LoadLayer(loader, m, i, &model->layers[i]); !s.ok()) return s;
  }
  model->inv_freq = InverseFrequencies(m, options.device);
  return model;
}

}  // namespace finetuned::model
