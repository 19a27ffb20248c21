#include "engine/train/kto_method.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/data/mismatched.h"
#include "engine/model/batch.h"
#include "engine/preference/document_sums.h"

namespace finetuned::train {
namespace {

using at::Tensor;
using preference::SumPerDocument;

// Which micro-batches a metric is averaged over.
enum class Over { kAll, kChosen, kRejected };
constexpr struct {
  const char* name;
  Over over;
} kKtoMetrics[] = {{"loss", Over::kAll},
                {"kl", Over::kAll},
                {"entropy", Over::kAll},
                {"rewards/chosen", Over::kChosen},
                {"logps/chosen", Over::kChosen},
                {"logits/chosen", Over::kChosen},
                {"rewards/rejected", Over::kRejected},
                {"logps/rejected", Over::kRejected},
                {"logits/rejected", Over::kRejected},
                // Of micro-batches with both classes: sum of rewards/chosen - rewards/rejected.
                {"rewards/margins", Over::kAll}};
constexpr int64_t kKtoMetricCount = std::size(kKtoMetrics);
constexpr int64_t kMargins = kKtoMetricCount - 1;

struct Classes {
  int64_t chosen = 0, rejected = 0;

  Classes(const data::TokenizedDataset& dataset, const data::PackedBatch& batch) {
    for (int64_t row : batch.rows)
      ++(dataset.rows[static_cast<size_t>(row)].desirable ? chosen : rejected);
  }
};

Tensor Labels(const data::TokenizedDataset& dataset, const data::PackedBatch& batch,
              at::Device device) {
  const Tensor host =
      at::empty({static_cast<int64_t>(batch.rows.size())},
                at::TensorOptions().dtype(at::kDouble).pinned_memory(device.is_cuda()));
  double* label = host.data_ptr<double>();
  for (int64_t row : batch.rows)
    *label++ = dataset.rows[static_cast<size_t>(row)].desirable ? 1 : 0;
  return host.to(device, /*non_blocking=*/true);
}

// Metrics of one class of a micro-batch: reward, log probability of an answer, mean logit of a
// token; 0 without rows.
std::vector<Tensor> OfClass(const Tensor& in_class_N, const Tensor& log_ratio_N,
                            const Tensor& policy_N, const Tensor& logits_N, const Tensor& tokens_N,
                            double beta) {
  const Tensor rows = in_class_N.sum().clamp_min(1);
  return {(log_ratio_N * in_class_N).sum() * beta / rows, (policy_N * in_class_N).sum() / rows,
          (logits_N * in_class_N).sum() / (tokens_N * in_class_N).sum().clamp_min(1)};
}

// The range that (weight * rows) of a class should have against the other's (KTO, equation 8).
std::string Advice(const char* field, double other) {
  return absl::StrFormat("%s in [%.2f, %.2f]", field, other, 1.33 * other);
}

}  // namespace

KtoMethod::KtoMethod(const MethodInputs& inputs)
    : in_(inputs),
      loss_{inputs.spec->kto.beta, inputs.spec->kto.desirable_weight,
            inputs.spec->kto.undesirable_weight, inputs.spec->kto.loss_type == "kto"},
      reference_(&in_, inputs.spec->kto.precompute_reference) {}

absl::Status KtoMethod::Prepare() {
  AdviseWeights();
  return reference_.Prepare();
}

// The KL estimate asks for other answers in every window.
double KtoMethod::ReferencePasses() const { return (reference_.precomputed() ? 0 : 1) + (loss_.uses_kl ? 2 : 0); }

void KtoMethod::AdviseWeights() const {
  double desirable = 0, undesirable = 0;
  for (const data::TokenizedRow& row : in_.train->rows) ++(row.desirable ? desirable : undesirable);
  if (desirable == 0 || undesirable == 0) {
    in_.observer->OnWarning(
        "ONE_SIDED_LABELS",
        absl::StrCat("there is no ", desirable == 0 ? "desirable" : "undesirable",
                     " row to learn the difference from"));
    return;
  }
  const double ratio =
      loss_.desirable_weight * desirable / (loss_.undesirable_weight * undesirable);
  // TRL rounds its limits; a little room does the same.
  const double other = loss_.desirable_weight / ratio;
  if ((ratio >= 0.995 && ratio <= 1.335) || desirable == undesirable) return;
  const double undesirable_top = loss_.undesirable_weight * ratio;
  in_.observer->OnWarning(
      "KTO_WEIGHTS",
      absl::StrFormat(
          "%.0f rows are desirable and %.0f are not; to balance them set either kto.%s or "
          "kto.undesirable_weight in [%.2f, %.2f], not both",
          desirable, undesirable, Advice("desirable_weight", other), undesirable_top / 1.33,
          undesirable_top));
}

std::vector<Tensor> KtoMethod::EstimateKl(const data::TokenizedDataset& dataset,
                                          const std::vector<data::PackedBatch>& batches, const job::Share& share) {
  const auto f64 = at::TensorOptions().device(in_.device).dtype(at::kDouble);
  std::vector<Tensor> kl(batches.size(), at::zeros({}, f64));
  if (!loss_.uses_kl) return kl;
  const auto mismatched =
      data::MismatchedBatches(dataset.rows, batches, in_.spec->schedule.max_seq_length);
  Tensor single_sum = at::zeros({}, f64);
  int64_t singles = 0;
  for (size_t i = 0; i < batches.size(); ++i) {
    if (batches[i].rows.size() == 1) ++singles;
    if (!share.Holds(static_cast<int64_t>(i))) continue;
    const model::DeviceBatch on_device = model::Upload(mismatched[i], in_.device);
    const Tensor policy = in_.decoder->LogProbs(on_device, {}, model::AdapterUse::kOn).log_probs_M;
    const Tensor reference =
        in_.decoder->LogProbs(on_device, {}, model::AdapterUse::kOff).log_probs_M;
    kl[i] =
        (policy.to(at::kDouble) - reference).sum() / static_cast<double>(batches[i].rows.size());
    if (batches[i].rows.size() == 1) single_sum = single_sum + kl[i];
  }
  if (share.count > 1 && singles > 0) SumOver(in_.world, single_sum);
  for (size_t i = 0; i < batches.size(); ++i) {
    kl[i] = (batches[i].rows.size() > 1 ? kl[i] : single_sum / static_cast<double>(singles))
                .clamp_min(0);
  }
  return kl;
}

Tensor KtoMethod::Run(const data::TokenizedDataset& dataset, const data::PackedBatch& batch,
                      const Tensor& kl, double grad_scale) {
  const model::DeviceBatch on_device = model::Upload(batch, in_.device);
  const auto groups = preference::GroupTargets(batch, in_.device);
  const Tensor desirable_N = Labels(dataset, batch, in_.device);
  const Tensor reference_N = reference_.Sums(dataset, batch, on_device, groups);
  const model::LogProbOptions wanted = {.mean_logits = true};
  const model::TargetLogProbs policy =
      grad_scale != 0 ? in_.decoder->ForwardLogProbs(on_device, wanted)
                      : in_.decoder->LogProbs(on_device, wanted, model::AdapterUse::kOn);
  const Tensor policy_N = SumPerDocument(groups, policy.log_probs_M);
  const auto loss = preference::ComputeUnpairedLoss(policy_N, reference_N, desirable_N, kl, loss_);

  const Tensor logits_N = SumPerDocument(groups, policy.mean_logit_M),
               tokens_N = groups.lengths_N.to(at::kDouble);
  std::vector<Tensor> values = {
      loss.loss, kl, policy.entropy_M.sum(at::kDouble) / static_cast<double>(groups.targets)};
  for (const Tensor& in_class_N : {desirable_N, 1 - desirable_N}) {
    for (Tensor& value :
         OfClass(in_class_N, policy_N - reference_N, policy_N, logits_N, tokens_N, loss_.beta)) {
      values.push_back(std::move(value));
    }
  }
  const Classes classes(dataset, batch);
  const bool both = classes.chosen > 0 && classes.rejected > 0;
  values.push_back(both ? values[3] - values[6] : at::zeros_like(kl));
  const Tensor measured = at::stack(values);
  if (grad_scale != 0) {
    in_.decoder->BackwardLogProbs(
        on_device, wanted, preference::SpreadToTargets(groups, loss.d_log_probs_N * grad_scale));
  }
  return measured;
}

Tensor KtoMethod::AccumulateGradients(const Window& window) {
  in_.doing(absl::StrCat("estimating the KL of step ", window.step));
  const std::vector<Tensor> kl = EstimateKl(*in_.train, window.batches, window.share);
  Tensor totals =
      at::zeros({kKtoMetricCount}, at::TensorOptions().device(in_.device).dtype(at::kDouble));
  for (size_t i = 0; i < window.batches.size(); ++i) {
    if (!window.share.Holds(static_cast<int64_t>(i))) continue;
    in_.doing(DescribeBatch(window, window.batches[i]));
    totals.add_(Run(*in_.train, window.batches[i], kl[i],
                    1.0 / static_cast<double>(window.batches.size())));
  }
  return totals;
}

std::map<std::string, double> KtoMethod::StepValues(const Window& window,
                                                    const double* measured) const {
  double chosen = 0, rejected = 0, both = 0;
  for (const data::PackedBatch& batch : window.batches) {
    const Classes classes(*in_.train, batch);
    chosen += classes.chosen > 0;
    rejected += classes.rejected > 0;
    both += classes.chosen > 0 && classes.rejected > 0;
  }
  std::map<std::string, double> values;
  for (int64_t i = 0; i < kKtoMetricCount; ++i) {
    const Over over = kKtoMetrics[i].over;
    const double batches = i == kMargins             ? both
                           : over == Over::kChosen   ? chosen
                           : over == Over::kRejected ? rejected
                                                     : static_cast<double>(window.batches.size());
    if (batches > 0) values[kKtoMetrics[i].name] = measured[i] / batches;
  }
  return values;
}

std::map<std::string, double> KtoMethod::Evaluate(int64_t) {
  const auto start = std::chrono::steady_clock::now();
  const data::BatchPlan plan(in_.eval->rows, EvalBatchOptions(*in_.spec), 0);
  Tensor totals =
      at::zeros({kKtoMetricCount}, at::TensorOptions().device(in_.device).dtype(at::kDouble));
  double rows[3] = {}, tokens = 0;  // rows by Over
  const int64_t window = in_.spec->schedule.gradient_accumulation_steps;
  for (int64_t first = 0; first < plan.micro_batches(); first += window) {
    std::vector<data::PackedBatch> batches;
    for (int64_t i = first; i < std::min(first + window, plan.micro_batches()); ++i)
      batches.push_back(plan.Build(i));
    const std::vector<Tensor> kl = EstimateKl(*in_.eval, batches, ShareOf(in_.world));
    for (size_t i = 0; i < batches.size(); ++i) {
      const Classes classes(*in_.eval, batches[i]);
      const double here[3] = {static_cast<double>(batches[i].rows.size()),
                              static_cast<double>(classes.chosen),
                              static_cast<double>(classes.rejected)};
      if (ShareOf(in_.world).Holds(static_cast<int64_t>(i))) {
        const Tensor measured = Run(*in_.eval, batches[i], kl[i], /*grad_scale=*/0);
        for (int64_t m = 0; m < kMargins; ++m) {
          totals.narrow(0, m, 1).add_(measured.narrow(0, m, 1),
                                      here[static_cast<int>(kKtoMetrics[m].over)]);
        }
      }
      for (int k = 0; k < 3; ++k) rows[k] += here[k];
      tokens += static_cast<double>(batches[i].num_targets);
    }
  }
  SumOver(in_.world, totals);
  const Tensor host = totals.to(at::kCPU);
  std::map<std::string, double> values;
  for (int64_t m = 0; m < kMargins; ++m) {
    const double count = rows[static_cast<int>(kKtoMetrics[m].over)];
    if (count > 0)
      values[absl::StrCat("eval_", kKtoMetrics[m].name)] = host.const_data_ptr<double>()[m] / count;
  }
  if (rows[1] > 0 && rows[2] > 0) {
    values["eval_rewards/margins"] =
        values["eval_rewards/chosen"] - values["eval_rewards/rejected"];
  }
  AddEvalTotals(tokens, start, &values);
  return values;
}

}  // namespace finetuned::train
