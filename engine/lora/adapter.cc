#include "engine/lora/adapter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/philox.h"

namespace finetuned::lora {
namespace {

struct TargetRow {
  const char* name;
  const char* path;
  GroupKind group;
};

constexpr TargetRow kTargetRows[kTargets] = {
    {"q_proj", "self_attn.q_proj", GroupKind::kQkv},
    {"k_proj", "self_attn.k_proj", GroupKind::kQkv},
    {"v_proj", "self_attn.v_proj", GroupKind::kQkv},
    {"o_proj", "self_attn.o_proj", GroupKind::kO},
    {"gate_proj", "mlp.gate_proj", GroupKind::kGateUp},
    {"up_proj", "mlp.up_proj", GroupKind::kGateUp},
    {"down_proj", "mlp.down_proj", GroupKind::kDown},
};

const TargetRow& Row(Target target) { return kTargetRows[static_cast<int>(target)]; }

int64_t Inputs(const format::ModelConfig& m, Target target) {
  if (target == Target::kO) return m.q_size();
  return target == Target::kDown ? m.intermediate_size : m.hidden_size;
}

int64_t Outputs(const format::ModelConfig& m, Target target) {
  switch (target) {
    case Target::kQ: return m.q_size();
    case Target::kK:
    case Target::kV: return m.kv_size();
    case Target::kGate:
    case Target::kUp: return m.intermediate_size;
    default: return m.hidden_size;
  }
}

int64_t Count(const format::ModelConfig& m, const Options& options) {
  int64_t n = 0;
  for (Target t : options.targets) n += options.rank * (Inputs(m, t) + Outputs(m, t));
  return n * m.num_hidden_layers;
}

}  // namespace

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

double Options::scaling() const {
  const double r = static_cast<double>(rank);
  return alpha / (use_rslora ? std::sqrt(r) : r);
}

Adapter::Adapter(const format::ModelConfig& config, const Options& options, at::Device device,
                 at::ScalarType compute_dtype)
    : options_(options) {
  const auto f32 = at::TensorOptions().device(device).dtype(at::kFloat);
  const int64_t n = Count(config, options);
  parameters_ = at::zeros({n}, f32);
  grads_ = at::zeros({n}, f32);
  compute_ = compute_dtype == at::kFloat ? parameters_ : at::zeros({n}, f32.dtype(compute_dtype));
  groups_.resize(config.num_hidden_layers);
  int64_t offset = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (int kind = 0; kind < kGroups; ++kind) {
      AddGroup(config, layer, static_cast<GroupKind>(kind), &offset);
    }
  }
}

void Adapter::AddGroup(const format::ModelConfig& config, int64_t layer, GroupKind kind,
                       int64_t* offset) {
  Group& group = groups_[layer][static_cast<int>(kind)];
  const int64_t r = options_.rank, start = *offset;
  int64_t column = 0, in = 0;
  for (int i = 0; i < kTargets; ++i) {
    const Target target = static_cast<Target>(i);
    if (Row(target).group != kind) continue;
    if (std::count(options_.targets.begin(), options_.targets.end(), target) > 0) {
      Site site;
      site.layer = layer;
      site.target = target;
      site.index = static_cast<int64_t>(sites_.size() + group.sites.size());
      site.in = in = Inputs(config, target);
      site.out = Outputs(config, target);
      group.sites.push_back(site);
      group.first_column.push_back(column);
    }
    column += Outputs(config, target);
  }
  auto take = [&](int64_t rows, int64_t columns, at::Tensor* p, at::Tensor* g, at::Tensor* c) {
    const int64_t n = rows * columns;
    *p = parameters_.narrow(0, *offset, n).view({rows, columns});
    *g = grads_.narrow(0, *offset, n).view({rows, columns});
    *c = compute_.narrow(0, *offset, n).view({rows, columns});
    *offset += n;
  };
  for (Site& s : group.sites) take(r, s.in, &s.a_RI, &s.da_RI, &s.compute_a_RI);
  for (Site& s : group.sites) take(s.out, r, &s.b_OR, &s.db_OR, &s.compute_b_OR);
  if (group.sites.empty()) return;
  const int64_t ranks = r * static_cast<int64_t>(group.sites.size());
  group.compute_a_GI = compute_.narrow(0, start, ranks * in).view({ranks, in});
  group.da_GI = grads_.narrow(0, start, ranks * in).view({ranks, in});
  sites_.insert(sites_.end(), group.sites.begin(), group.sites.end());
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
  if (!compute_.is_same(parameters_)) compute_.copy_(parameters_);
}

}  // namespace finetuned::lora
