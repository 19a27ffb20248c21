// The trainable low-rank matrices of a run. Each adapted linear W [O, I] gets A [R, I] and B [O, R];
// its output becomes x W^T + scaling * (x A^T) B^T, scaling = alpha / R, or alpha / sqrt(R) (rsLoRA). With DoRA that sum
// is multiplied, output by output, with magnitude / norm of the row of W + scaling * B A; the norm has no gradient.
// Legend: I inputs, O outputs, R rank, G sum of the ranks of a group.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/model_config.h"
#include "engine/plan/biases.h"

namespace finetuned::lora {

// Linears of a decoder layer, in the order of forward. Families that store q, k, v as one matrix have kQkv instead of
// the three, and kGateUp instead of the two.
enum class Target { kQ, kK, kV, kQkv, kO, kGate, kUp, kGateUp, kDown };
inline constexpr int kTargets = 9;

// "q_proj" and "self_attn.q_proj".
const char* TargetName(Target target);
const char* TargetPath(Target target);

// Module names as in a job ("all-linear" is all; empty too). INVALID_ARGUMENT names an unknown one. An adapter takes
// those that its model has; see format::CheckLinearNames.
absl::StatusOr<std::vector<Target>> ParseTargets(const std::vector<std::string>& names);

// Those of them that the model has, in the order of forward.
std::vector<Target> TargetsOfModel(const std::vector<Target>& targets, const format::ModelConfig& config);

struct Options {
  int64_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;  // on the input of A, in training only
  bool use_rslora = false;
  std::vector<Target> targets;  // sorted, distinct
  // Other ranks and alphas by patterns of module names (plan/module_pattern.h); of several the first by alphabet.
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<int64_t> layers;  // that have adapters; empty: all
  bool use_dora = false;
  std::vector<std::string> modules_to_save;  // "embed_tokens", "lm_head": trained as a whole
  plan::Biases biases = plan::Biases::kNone;  // of the base, that train

  double scaling(int64_t rank, double alpha) const;
};

// One adapted linear. Tensors are views of the adapter's flat buffers.
struct Site {
  int64_t layer = 0;
  Target target = Target::kQ;
  int64_t index = 0;  // number of the site in the adapter; its dropout stream
  int64_t in = 0, out = 0, rank = 0;
  double scaling = 0;
  double a_scale = 1;                     // what compute_a_RI is multiplied with: scaling where its group has no common one
  at::Tensor a_RI, b_OR;                  // float32, what the optimizer changes
  at::Tensor da_RI, db_OR;                // float32 gradients
  at::Tensor compute_a_RI, compute_b_OR;  // compute type; the masters themselves in float32 without a_scale
  // DoRA, float32. norm_O: of the rows of W + scaling * B A, as model::RefreshGains left it.
  at::Tensor magnitude_O, dmagnitude_O, norm_O;
};

// The bias of one linear of a group. Undefined tensors: it stays the base's.
struct BiasPart {
  int64_t layer = 0;
  Target target = Target::kQ;
  bool adapted = false;  // the linear has a site
  int64_t first_column = 0, out = 0;
  at::Tensor value_O, gradient_O;  // float32
  at::Tensor compute_O;            // compute type
};

// Fused linears that read one input; their sites and the columns of the fused output they add to.
enum class GroupKind { kQkv, kO, kGateUp, kDown };
inline constexpr int kGroups = 4;
struct Group {
  std::vector<Site> sites;            // may be empty
  std::vector<int64_t> first_column;  // of each site in the fused output
  std::vector<BiasPart> biases;       // where one of them trains, those of all linears; else empty
  int64_t out = 0;                    // columns of the fused output
  at::Tensor compute_a_GI, da_GI;     // A and dA of all sites, adjacent in memory
  double scaling = 1;                 // of u B^T: that of all sites, or 1 where they differ and a_scale has it
  bool mixed = false;                 // they differ
  at::Tensor gain_O;                  // DoRA: float32, of the fused output; 1 where no site is
  int64_t ranks() const { return compute_a_GI.defined() ? compute_a_GI.size(0) : 0; }
};

// A tensor that trains, as PEFT's files call it.
struct NamedParameter {
  std::string name;  // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
  at::Tensor value, gradient;  // float32, views of the adapter's buffers
};

// A copy of an embedding or a head that trains as a whole, in place of the base's. Undefined: there is none.
struct FullModule {
  at::Tensor weight_VD, dweight_VD;  // float32
  at::Tensor compute_VD;             // compute type
};

class SiteOptions;

// Owns parameters and gradients, each as one flat float32 buffer in the order of sites(): per group
// all A, then all B, then all magnitudes, then all biases; then embedding and head. Not thread safe.
class Adapter {
 public:
  // REQUIRES: options.targets has one of the model's, rank > 0. options() then holds those alone. Parameters are zero
  // until Initialize or a load. trainable false: there are no gradients.
  Adapter(const format::ModelConfig& config, const Options& options, at::Device device,
          at::ScalarType compute_dtype, bool trainable = true);
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  // PEFT's default: B = 0, A uniform in (-1/sqrt(I), 1/sqrt(I)) (kaiming_uniform, a = sqrt(5)).
  // Element i of site s is word i % 4 of Philox4x32-10(counter = {i / 4, s}, key = seed), taken as
  // (word >> 8) * 2^-23 - 1 + 2^-24, times the bound: the same numbers on every machine.
  void Initialize(uint64_t seed);
  // Copies the masters into the compute type. Call after each change of the parameters.
  void RefreshCompute();
  void ZeroGradients() { grads_.zero_(); }

  const Options& options() const { return options_; }
  const Group& group(int64_t layer, GroupKind kind) const {
    return groups_[layer][static_cast<int>(kind)];
  }
  int64_t layers() const { return static_cast<int64_t>(groups_.size()); }
  const std::vector<Site>& sites() const { return sites_; }
  const FullModule& embed_tokens() const { return embed_; }
  const FullModule& lm_head() const { return head_; }
  // ModelConfig's; part of the names.
  const std::string& text_prefix() const { return text_prefix_; }
  // Everything that trains, by name.
  std::vector<NamedParameter> named_parameters() const;
  // Counts the changes of the parameters; with DoRA gains are those of a version.
  int64_t version() const { return version_; }
  int64_t& gains_version() const { return gains_version_; }
  at::Tensor& parameters() { return parameters_; }  // float32 [n]
  at::Tensor& gradients() { return grads_; }        // float32 [n]
  const at::Tensor& parameters() const { return parameters_; }

 private:
  void AddSites(const format::ModelConfig& config, const SiteOptions& of, int64_t layer, GroupKind kind);
  void Place(Group* group, int64_t* offset);
  void PlaceModule(const format::ModelConfig& config, FullModule* module, int64_t* offset);
  bool Saves(const char* module) const;
  std::string ModuleName(int64_t layer, Target target) const;  // of PEFT, with a dot behind it
  void PlaceGains();

  Options options_;
  std::string text_prefix_;
  at::Tensor parameters_, grads_, compute_;
  at::Tensor norms_, gains_;  // DoRA
  int64_t version_ = 0;
  mutable int64_t gains_version_ = -1;
  int64_t sites_count_ = 0;
  FullModule embed_, head_;
  std::vector<Site> sites_;
  std::vector<std::array<Group, kGroups>> groups_;
};

}  // namespace finetuned::lora
