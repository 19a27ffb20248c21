#include "engine/train/dpo_method.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "engine/model/batch.h"

namespace finetuned::train {
namespace {

using at::Tensor;
using preference::SumPerDocument;

constexpr const char* kDpoMetrics[] = {"loss",
                                    "rewards/chosen",
                                    "rewards/rejected",
                                    "rewards/accuracies",
                                    "rewards/margins",
                                    "logps/chosen",
                                    "logps/rejected",
                                    "logits/chosen",
                                    "logits/rejected",
                                    "entropy",
                                    "mean_token_accuracy"};
constexpr int64_t kDpoMetricCount = std::size(kDpoMetrics);

preference::PairLossOptions LossOptions(const job::DpoOptions& o) {
  return {o.loss_types,      o.loss_weights, o.beta,
          o.label_smoothing, o.f_divergence, o.f_alpha_divergence_coef,
          o.discopop_tau};
}

// Documents lie as chosen, rejected, chosen, rejected, ...
Tensor Chosen(const Tensor& x_N) { return x_N.view({-1, 2}).select(1, 0); }
Tensor Rejected(const Tensor& x_N) { return x_N.view({-1, 2}).select(1, 1); }

// float32 [M]: ld_alpha for targets beyond the number that the shorter answer has, 1 for others;
// undefined when all are 1.
Tensor LengthWeights(const data::PackedBatch& batch, double ld_alpha, at::Device device) {
  if (ld_alpha == 1) return {};
  const Tensor host =
      at::empty({batch.num_targets}, at::TensorOptions().pinned_memory(device.is_cuda()));
  float* weight = host.data_ptr<float>();
  const int64_t documents = static_cast<int64_t>(batch.cu_seqlens.size()) - 1;
  std::vector<int64_t> targets(documents);
  for (int64_t n = 0; n < documents; ++n) {
    targets[n] = std::count_if(batch.labels.begin() + batch.cu_seqlens[n],
                               batch.labels.begin() + batch.cu_seqlens[n + 1],
                               [](int32_t l) { return l >= 0; });
  }
  for (int64_t n = 0; n < documents; ++n) {
    const int64_t shared = std::min(targets[n], targets[n ^ 1]);
    for (int64_t i = 0; i < targets[n]; ++i)
      *weight++ = i < shared ? 1.0f : static_cast<float>(ld_alpha);
  }
  return host.to(device, /*non_blocking=*/true);
}

Tensor Times(const Tensor& x_M, const Tensor& weight_M) {
  return weight_M.defined() ? x_M * weight_M : x_M;
}

// Weights of pairs (WPO): the likelihood of each answer per token, against the mean likelihood of
// the policy's tokens.
Tensor PairWeights(const model::TargetLogProbs& policy, const preference::TargetGroups& groups) {
  const Tensor mean_N =
      SumPerDocument(groups, policy.log_probs_M - policy.log_sum_squares_M) / groups.lengths_N;
  return at::exp(Chosen(mean_N) + Rejected(mean_N));
}

// The metrics after the loss.
Tensor Measure(const preference::PairLogProbs& p, const preference::PairLoss& loss, double beta,
               const model::TargetLogProbs& policy, const preference::TargetGroups& groups) {
  const Tensor won = (p.chosen_P - p.ref_chosen_P) * beta,
               lost = (p.rejected_P - p.ref_rejected_P) * beta;
  const auto per_token = [&](const Tensor& x_M, Tensor (*answers)(const Tensor&)) {
    return answers(SumPerDocument(groups, x_M)).sum() / answers(groups.lengths_N).sum();
  };
  return at::stack({loss.loss, won.mean(), lost.mean(), (won > lost).to(at::kDouble).mean(),
                    (won - lost).mean(), p.chosen_P.mean(), p.rejected_P.mean(),
                    per_token(policy.mean_logit_M, Chosen),
                    per_token(policy.mean_logit_M, Rejected),
                    policy.entropy_M.mean(c10::optional<at::ScalarType>(at::kDouble)),
                    per_token(policy.correct_M, Chosen)});
}

}  // namespace

DpoMethod::DpoMethod(const MethodInputs& inputs)
    : in_(inputs),
      options_(inputs.spec->dpo),
      loss_(LossOptions(inputs.spec->dpo)),
      reference_(&in_, options_.precompute_reference && !options_.reference_free,
                 [this](const data::PackedBatch& batch) { return LengthWeights(batch, options_.ld_alpha, in_.device); }) {}

absl::Status DpoMethod::Prepare() { return reference_.Prepare(); }

double DpoMethod::ReferencePasses() const { return options_.reference_free || reference_.precomputed() ? 0 : 1; }

Tensor DpoMethod::GradientOfTargets(const preference::PairLoss& loss,
                                    const preference::TargetGroups& groups, const Tensor& ld_M,
                                    double grad_scale) const {
  const auto spread = [&](const Tensor& chosen_P, const Tensor& rejected_P) {
    const Tensor both_N = at::stack({chosen_P, rejected_P}, 1).view({-1}) * grad_scale;
    return preference::SpreadToTargets(groups, both_N);
  };
  const Tensor d_M = Times(spread(loss.d_chosen_P, loss.d_rejected_P), ld_M);
  if (!loss.d_plain_chosen_P.defined()) return d_M;
  return d_M + spread(loss.d_plain_chosen_P, at::zeros_like(loss.d_chosen_P));
}

Tensor DpoMethod::Run(const data::TokenizedDataset& dataset, const data::PackedBatch& batch, double grad_scale) {
  const model::DeviceBatch on_device = model::Upload(batch, in_.device);
  const auto groups = preference::GroupTargets(batch, in_.device);
  const Tensor ld_M = LengthWeights(batch, options_.ld_alpha, in_.device);
  const Tensor reference_N =
      options_.reference_free
          ? at::zeros({groups.documents}, at::TensorOptions().dtype(at::kDouble).device(in_.device))
          : reference_.Sums(dataset, batch, on_device, groups);
  const model::LogProbOptions wanted = {.mean_logits = true,
                                        .log_sum_squares = options_.use_weighting};
  const model::TargetLogProbs policy =
      grad_scale != 0 ? in_.decoder->ForwardLogProbs(on_device, wanted)
                      : in_.decoder->LogProbs(on_device, wanted, model::AdapterUse::kOn);
  const Tensor policy_N = SumPerDocument(groups, Times(policy.log_probs_M, ld_M));
  const Tensor tokens_N = groups.lengths_N.to(at::kDouble);
  const preference::PairLogProbs p{
      Chosen(policy_N),
      Rejected(policy_N),
      Chosen(reference_N),
      Rejected(reference_N),
      Chosen(tokens_N),
      Rejected(tokens_N),
      Chosen(ld_M.defined() ? SumPerDocument(groups, policy.log_probs_M) : policy_N),
      options_.use_weighting ? PairWeights(policy, groups) : Tensor()};
  const preference::PairLoss loss = preference::ComputePairLoss(p, loss_);
  const Tensor measured = Measure(p, loss, options_.beta, policy, groups);
  if (grad_scale != 0) {
    in_.decoder->BackwardLogProbs(on_device, wanted,
                                  GradientOfTargets(loss, groups, ld_M, grad_scale));
  }
  return measured;
}

Tensor DpoMethod::AccumulateGradients(const Window& window) {
  Tensor totals =
      at::zeros({kDpoMetricCount}, at::TensorOptions().device(in_.device).dtype(at::kDouble));
  for (size_t i = 0; i < window.batches.size(); ++i) {
    if (!window.share.Holds(static_cast<int64_t>(i))) continue;
    const data::PackedBatch& batch = window.batches[i];
    in_.doing(DescribeBatch(window, batch));
    totals.add_(Run(*in_.train, batch, 1.0 / static_cast<double>(window.batches.size())));
  }
  return totals;
}

std::map<std::string, double> DpoMethod::StepValues(const Window& window,
                                                    const double* measured) const {
  std::map<std::string, double> values;
  for (int64_t i = 0; i < kDpoMetricCount; ++i) {
    values[kDpoMetrics[i]] = measured[i] / static_cast<double>(window.batches.size());
  }
  return values;
}

std::map<std::string, double> DpoMethod::Evaluate(int64_t) {
  const auto start = std::chrono::steady_clock::now();
  const data::BatchPlan plan(in_.eval->rows, EvalBatchOptions(*in_.spec), 0);
  Tensor totals =
      at::zeros({kDpoMetricCount}, at::TensorOptions().device(in_.device).dtype(at::kDouble));
  double pairs = 0, tokens = 0;
  for (int64_t i = 0; i < plan.micro_batches(); ++i) {
    const data::PackedBatch batch = plan.Build(i);
    const double here = static_cast<double>(batch.rows.size()) / 2;
    pairs += here;
    tokens += static_cast<double>(batch.num_targets);
    if (ShareOf(in_.world).Holds(i)) totals.add_(Run(*in_.eval, batch, /*grad_scale=*/0), here);
  }
  SumOver(in_.world, totals);
  const Tensor host = totals.to(at::kCPU);
  std::map<std::string, double> values;
  for (int64_t i = 0; i < kDpoMetricCount; ++i) {
    values[absl::StrCat("eval_", kDpoMetrics[i])] = host.const_data_ptr<double>()[i] / pairs;
  }
  AddEvalTotals(tokens, start, &values);
  return values;
}

}  // namespace finetuned::train
