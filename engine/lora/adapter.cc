#include "engine/lora/adapter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/format/model_layout.h"
#include "engine/plan/adapter_shape.h"
#include "engine/plan/module_pattern.h"
#include "kernels/philox.h"

namespace finetuned::lora {
namespace {

struct TargetRow {
  const char* name;
  const char* path;
};

constexpr TargetRow kTargetRows[kTargets] = {
    {"q_proj", "self_attn.q_proj"},
    {"k_proj", "self_attn.k_proj"},
    {"v_proj", "self_attn.v_proj"},
    {"qkv_proj", "self_attn.qkv_proj"},
    {"o_proj", "self_attn.o_proj"},
    {"gate_proj", "mlp.gate_proj"},
    {"up_proj", "mlp.up_proj"},
    {"gate_up_proj", "mlp.gate_up_proj"},
    {"down_proj", "mlp.down_proj"},
};

const TargetRow& Row(Target target) { return kTargetRows[static_cast<int>(target)]; }

Target TargetOf(const format::LayerLinear& linear) {
  for (int i = 0; i < kTargets; ++i) {
    if (std::string_view(kTargetRows[i].path) == linear.path) return static_cast<Target>(i);
  }
  TORCH_CHECK(false, "no adapter knows the linear ", linear.path);
}

static_assert(static_cast<int>(format::LinearGroup::kDown) == static_cast<int>(GroupKind::kDown));
GroupKind KindOf(const format::LayerLinear& linear) { return static_cast<GroupKind>(linear.group); }

Options OfModel(Options options, const format::ModelConfig& config) {
  options.targets = TargetsOfModel(options.targets, config);
  return options;
}

// Elements of everything that trains in a site.
int64_t Elements(const Site& site, bool dora) { return site.rank * (site.in + site.out) + (dora ? site.out : 0); }

template <typename V>
std::vector<std::string> Keys(const std::map<std::string, V>& patterns) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : patterns) keys.push_back(key);
  return keys;
}

std::vector<std::string> Names(const std::vector<Target>& targets) {
  std::vector<std::string> names;
  for (Target target : targets) names.emplace_back(TargetName(target));
  return names;
}

}  // namespace

std::vector<Target> TargetsOfModel(const std::vector<Target>& targets, const format::ModelConfig& config) {
  std::vector<Target> of_model;
  for (const format::LayerLinear& linear : format::LayerLinears(config)) {
    const Target target = TargetOf(linear);
    if (std::count(targets.begin(), targets.end(), target) > 0) of_model.push_back(target);
  }
  return of_model;
}

const char* TargetName(Target target) { return Row(target).name; }
const char* TargetPath(Target target) { return Row(target).path; }

absl::StatusOr<std::vector<Target>> ParseTargets(const std::vector<std::string>& names) {
  bool wanted[kTargets] = {};
  for (const std::string& name : names) {
    bool known = name == "all-linear";
    for (int i = 0; i < kTargets; ++i) {
      const bool match = name == "all-linear" || name == kTargetRows[i].name;
      wanted[i] |= match;
      known |= match;
    }
    if (!known) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", name, "\" is not a linear of this model; use ",
          absl::StrJoin(kTargetRows, ", ",
                        [](std::string* out, const TargetRow& r) { out->append(r.name); }),
          " or all-linear"));
    }
  }
  std::vector<Target> targets;
  for (int i = 0; i < kTargets; ++i) {
    if (wanted[i] || names.empty()) targets.push_back(static_cast<Target>(i));
  }
  return targets;
}

double Options::scaling(int64_t rank, double alpha) const {
  const double r = static_cast<double>(rank);
  return alpha / (use_rslora ? std::sqrt(r) : r);
}

// Ranks and alphas of the sites.
class SiteOptions {
 public:
  explicit SiteOptions(const Options& o)
      : options_(o), shape_(o.rank, o.rank_pattern, o.layers, Names(o.targets)), alphas_(Keys(o.alpha_pattern)) {
    for (const auto& [key, alpha] : o.alpha_pattern) alpha_values_.push_back(alpha);
  }

  int64_t Rank(int64_t layer, Target target) const { return shape_.Rank(layer, TargetName(target)); }
  double Scaling(int64_t layer, Target target) const {
    const int place = alphas_.First(plan::ModuleName(layer, TargetName(target)));
    const double alpha = place < 0 ? options_.alpha : alpha_values_[static_cast<size_t>(place)];
    return options_.scaling(Rank(layer, target), alpha);
  }

 private:
  const Options& options_;
  const plan::AdapterShape shape_;
  const plan::ModulePatterns alphas_;
  std::vector<double> alpha_values_;
};

Adapter::Adapter(const format::ModelConfig& config, const Options& options, at::Device device,
                 at::ScalarType compute_dtype, bool trainable)
    : options_(OfModel(options, config)), text_prefix_(config.text_prefix) {
  TORCH_CHECK(!options_.targets.empty(), "the adapter has none of the linears of this ", config.architecture, " model");
  groups_.resize(config.num_hidden_layers);
  const SiteOptions of(options_);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (int kind = 0; kind < kGroups; ++kind) {
      AddSites(config, of, layer, static_cast<GroupKind>(kind));
    }
  }
  int64_t n = 0;
  bool mixed = false;
  for (const auto& groups : groups_) {
    for (const Group& group : groups) {
      mixed |= group.mixed;
      for (const Site& site : group.sites) n += Elements(site, options_.use_dora);
      for (const BiasPart& bias : group.biases) {
        if (plan::TrainsBias(options_.biases, bias.adapted)) n += bias.out;
      }
    }
  }
  TORCH_CHECK(n > 0, "the adapter has none of the linears of the model");
  n += (Saves("embed_tokens") + Saves("lm_head")) * config.vocab_size * config.hidden_size;
  const auto f32 = at::TensorOptions().device(device).dtype(at::kFloat);
  parameters_ = at::zeros({n}, f32);
  if (trainable) grads_ = at::zeros({n}, f32);
  compute_ = compute_dtype == at::kFloat && !mixed ? parameters_ : at::zeros({n}, f32.dtype(compute_dtype));
  int64_t offset = 0;
  for (auto& groups : groups_) {
    for (Group& group : groups) Place(&group, &offset);
  }
  if (Saves("embed_tokens")) PlaceModule(config, &embed_, &offset);
  if (Saves("lm_head")) PlaceModule(config, &head_, &offset);
  if (options_.use_dora) PlaceGains();
  for (const auto& groups : groups_) {
    for (const Group& group : groups) sites_.insert(sites_.end(), group.sites.begin(), group.sites.end());
  }
}

void Adapter::AddSites(const format::ModelConfig& config, const SiteOptions& of, int64_t layer, GroupKind kind) {
  Group& group = groups_[layer][static_cast<int>(kind)];
  int64_t column = 0;
  for (const format::LayerLinear& linear : format::LayerLinears(config)) {
    if (KindOf(linear) != kind) continue;
    const Target target = TargetOf(linear);
    Site site;
    site.rank = of.Rank(layer, target);
    site.layer = layer;
    site.target = target;
    site.in = linear.in;
    site.out = linear.out;
    if (site.rank > 0) {
      site.index = sites_count_++;
      site.scaling = of.Scaling(layer, target);
      group.sites.push_back(site);
      group.first_column.push_back(column);
    }
    if (linear.bias) group.biases.push_back({layer, target, site.rank > 0, column, site.out, {}, {}, {}});
    column += site.out;
  }
  group.out = column;
  const bool trains = std::any_of(group.biases.begin(), group.biases.end(), [&](const BiasPart& bias) {
    return plan::TrainsBias(options_.biases, bias.adapted);
  });
  if (!trains) group.biases.clear();
  if (group.sites.empty()) return;
  group.scaling = group.sites[0].scaling;
  for (const Site& site : group.sites) group.mixed |= site.scaling != group.scaling;
  if (!group.mixed) return;
  group.scaling = 1;
  for (Site& site : group.sites) site.a_scale = site.scaling;
}

void Adapter::Place(Group* group, int64_t* offset) {
  const int64_t start = *offset;
  auto take = [&](at::IntArrayRef shape, at::Tensor* p, at::Tensor* g, at::Tensor* c) {
    const int64_t n = c10::multiply_integers(shape);
    *p = parameters_.narrow(0, *offset, n).view(shape);
    if (grads_.defined()) *g = grads_.narrow(0, *offset, n).view(shape);
    if (c != nullptr) *c = compute_.narrow(0, *offset, n).view(shape);
    *offset += n;
  };
  for (Site& s : group->sites) take({s.rank, s.in}, &s.a_RI, &s.da_RI, &s.compute_a_RI);
  const int64_t of_a = *offset - start;
  for (Site& s : group->sites) take({s.out, s.rank}, &s.b_OR, &s.db_OR, &s.compute_b_OR);
  if (options_.use_dora) {
    for (Site& s : group->sites) take({s.out}, &s.magnitude_O, &s.dmagnitude_O, nullptr);
  }
  for (BiasPart& b : group->biases) {
    if (plan::TrainsBias(options_.biases, b.adapted)) take({b.out}, &b.value_O, &b.gradient_O, &b.compute_O);
  }
  if (group->sites.empty()) return;
  const int64_t in = group->sites[0].in, ranks = of_a / in;
  group->compute_a_GI = compute_.narrow(0, start, of_a).view({ranks, in});
  if (grads_.defined()) group->da_GI = grads_.narrow(0, start, of_a).view({ranks, in});
}

bool Adapter::Saves(const char* module) const {
  const auto& names = options_.modules_to_save;
  return std::find(names.begin(), names.end(), module) != names.end();
}

void Adapter::PlaceModule(const format::ModelConfig& config, FullModule* module, int64_t* offset) {
  const int64_t v = config.vocab_size, d = config.hidden_size;
  module->weight_VD = parameters_.narrow(0, *offset, v * d).view({v, d});
  if (grads_.defined()) module->dweight_VD = grads_.narrow(0, *offset, v * d).view({v, d});
  module->compute_VD = compute_.narrow(0, *offset, v * d).view({v, d});
  *offset += v * d;
}

void Adapter::PlaceGains() {
  int64_t outputs = 0;
  for (const auto& groups : groups_) {
    for (const Group& group : groups) outputs += group.sites.empty() ? 0 : group.out;
  }
  norms_ = at::ones({outputs}, parameters_.options());
  gains_ = at::ones({outputs}, parameters_.options());
  int64_t first = 0;
  for (auto& groups : groups_) {
    for (Group& group : groups) {
      if (group.sites.empty()) continue;
      group.gain_O = gains_.narrow(0, first, group.out);
      for (size_t i = 0; i < group.sites.size(); ++i) {
        group.sites[i].norm_O = norms_.narrow(0, first + group.first_column[i], group.sites[i].out);
      }
      first += group.out;
    }
  }
}

std::string Adapter::ModuleName(int64_t layer, Target target) const {
  return absl::StrCat("base_model.model.model.", text_prefix_, "layers.", layer, ".", TargetPath(target), ".");
}

std::vector<NamedParameter> Adapter::named_parameters() const {
  std::vector<NamedParameter> all;
  for (const Site& s : sites_) {
    const std::string prefix = ModuleName(s.layer, s.target);
    all.push_back({prefix + "lora_A.weight", s.a_RI, s.da_RI});
    all.push_back({prefix + "lora_B.weight", s.b_OR, s.db_OR});
    if (options_.use_dora) all.push_back({prefix + "lora_magnitude_vector", s.magnitude_O, s.dmagnitude_O});
  }
  for (const auto& groups : groups_) {
    for (const Group& group : groups) {
      for (const BiasPart& b : group.biases) {
        if (!b.value_O.defined()) continue;
        all.push_back({ModuleName(b.layer, b.target) + (b.adapted ? "base_layer.bias" : "bias"), b.value_O, b.gradient_O});
      }
    }
  }
  const auto add = [&](const std::string& name, const FullModule& m) {
    if (m.weight_VD.defined()) all.push_back({name, m.weight_VD, m.dweight_VD});
  };
  add(absl::StrCat("base_model.model.model.", text_prefix_, "embed_tokens.weight"), embed_);
  add("base_model.model.lm_head.weight", head_);
  return all;
}

void Adapter::Initialize(uint64_t seed) {
  at::Tensor host = at::zeros({parameters_.numel()}, at::kFloat);
  for (const Site& site : sites_) {
    float* a = host.data_ptr<float>() + site.a_RI.storage_offset();
    const float bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(site.in)));
    const int64_t n = site.a_RI.numel();
    for (int64_t i = 0; i < n; i += 4) {
      const auto words = kernels::Philox(static_cast<uint64_t>(i / 4),
                                         static_cast<uint64_t>(site.index), seed);
      for (int64_t j = i; j < std::min(n, i + 4); ++j) {
        const float unit = static_cast<float>(words.v[j - i] >> 8) * 0x1p-23f - 1.0f + 0x1p-24f;
        a[j] = unit * bound;
      }
    }
  }
  parameters_.copy_(host);
  RefreshCompute();
}

void Adapter::RefreshCompute() {
  ++version_;
  if (compute_.is_same(parameters_)) return;
  compute_.copy_(parameters_);
  for (const Site& site : sites_) {
    if (site.a_scale != 1) site.compute_a_RI.mul_(site.a_scale);
  }
}

}  // namespace finetuned::lora
