// The trainable low-rank matrices of a run. Each adapted linear W [O, I] gets A [R, I] and B [O, R];
// its output becomes x W^T + scaling * (x A^T) B^T, scaling = alpha / R, or alpha / sqrt(R) (rsLoRA).
// Legend: I inputs, O outputs, R rank, G sum of the ranks of a group.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/model_config.h"

namespace finetuned::lora {

// Linears of a decoder layer, in the order of forward.
enum class Target { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kTargets = 7;

// "q_proj" and "self_attn.q_proj".
const char* TargetName(Target target);
const char* TargetPath(Target target);

// Module names as in a job ("all-linear" is all seven; empty too). INVALID_ARGUMENT names an unknown one.
absl::StatusOr<std::vector<Target>> ParseTargets(const std::vector<std::string>& names);

struct Options {
  int64_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;  // on the input of A, in training only
  bool use_rslora = false;
  std::vector<Target> targets;  // sorted, distinct

  double scaling() const;
};

// One adapted linear. Tensors are views of the adapter's flat buffers.
struct Site {
  int64_t layer = 0;
  Target target = Target::kQ;
  int64_t index = 0;  // number of the site in the adapter; its dropout stream
  int64_t in = 0, out = 0;
  at::Tensor a_RI, b_OR;                  // float32, what the optimizer changes
  at::Tensor da_RI, db_OR;                // float32 gradients
  at::Tensor compute_a_RI, compute_b_OR;  // compute type; the masters themselves in float32
};

// Fused linears that read one input; their sites and the columns of the fused output they add to.
enum class GroupKind { kQkv, kO, kGateUp, kDown };
inline constexpr int kGroups = 4;
struct Group {
  std::vector<Site> sites;            // may be empty
  std::vector<int64_t> first_column;  // of each site in the fused output
  at::Tensor compute_a_GI, da_GI;     // A and dA of all sites, adjacent in memory
  int64_t ranks() const { return compute_a_GI.defined() ? compute_a_GI.size(0) : 0; }
};

// Owns parameters and gradients, each as one flat float32 buffer in the order of sites(): per group
// all A, then all B. Not thread safe.
class Adapter {
 public:
  // REQUIRES: options.targets not empty, rank > 0. Parameters are zero until Initialize or a load.
  Adapter(const format::ModelConfig& config, const Options& options, at::Device device,
          at::ScalarType compute_dtype);
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
  const std::vector<Site>& sites() const { return sites_; }
  at::Tensor& parameters() { return parameters_; }  // float32 [n]
  at::Tensor& gradients() { return grads_; }        // float32 [n]
  const at::Tensor& parameters() const { return parameters_; }

 private:
  void AddGroup(const format::ModelConfig& config, int64_t layer, GroupKind kind,
                int64_t* offset);

  Options options_;
  at::Tensor parameters_, grads_, compute_;
  std::vector<Site> sites_;
  std::vector<std::array<Group, kGroups>> groups_;
};

}  // namespace finetuned::lora
