#include "engine/train/reference.h"

#include <ATen/ATen.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/batch.h"
#include "engine/train/reference_file.h"

namespace finetuned::train {

using at::Tensor;

Reference::Reference(const MethodInputs* inputs, bool precompute, Weights weights)
    : in_(*inputs), precompute_(precompute), weights_(std::move(weights)) {}

absl::Status Reference::Prepare() {
  if (!precompute_) return absl::OkStatus();
  absl::Status status = Precompute(*in_.train, "train");
  return status.ok() && in_.eval != nullptr ? Precompute(*in_.eval, "eval") : status;
}

absl::Status Reference::Precompute(const data::TokenizedDataset& dataset, const std::string& name) {
  const ReferenceFile file(in_, dataset);
  if (auto found = file.Read(dataset.rows.size())) {
    tables_[&dataset] = *std::move(found);
    return absl::OkStatus();
  }
  in_.doing(absl::StrCat("computing the log probabilities of the reference (", name, " rows)"));
  in_.observer->OnPhase("computing reference");
  std::vector<double> sums(dataset.rows.size());
  const data::BatchPlan plan(dataset.rows, EvalBatchOptions(*in_.spec), 0);
  for (int64_t i = 0; i < plan.micro_batches(); ++i) {
    if (!ShareOf(in_.world).Holds(i)) continue;
    const data::PackedBatch batch = plan.Build(i);
    const auto groups = preference::GroupTargets(batch, in_.device);
    const Tensor sums_N = Compute(batch, model::Upload(batch, in_.device), groups).to(at::kCPU);
    for (size_t n = 0; n < batch.rows.size(); ++n) {
      sums[static_cast<size_t>(batch.rows[n])] = sums_N.const_data_ptr<double>()[n];
    }
  }
  const Tensor all = at::from_blob(sums.data(), {static_cast<int64_t>(sums.size())}, at::kDouble).to(in_.device);
  SumOver(in_.world, all);
  const Tensor host = all.to(at::kCPU);
  std::vector<double>& table = tables_[&dataset];
  table.assign(host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel());
  return ShareOf(in_.world).index == 0 ? file.Write(table) : absl::OkStatus();
}

Tensor Reference::Sums(const data::TokenizedDataset& dataset, const data::PackedBatch& batch,
                       const model::DeviceBatch& on_device, const preference::TargetGroups& groups) {
  if (!precompute_) return Compute(batch, on_device, groups);
  const std::vector<double>& table = tables_.at(&dataset);
  const Tensor host = at::empty({groups.documents},
                                at::TensorOptions().dtype(at::kDouble).pinned_memory(in_.device.is_cuda()));
  for (size_t n = 0; n < batch.rows.size(); ++n) {
    host.data_ptr<double>()[n] = table[static_cast<size_t>(batch.rows[n])];
  }
  return host.to(in_.device, /*non_blocking=*/true);
}

Tensor Reference::Compute(const data::PackedBatch& batch, const model::DeviceBatch& on_device,
                          const preference::TargetGroups& groups) {
  const Tensor log_probs_M = in_.decoder->LogProbs(on_device, {}, model::AdapterUse::kOff).log_probs_M;
  const Tensor weights_M = weights_ ? weights_(batch) : Tensor();
  return preference::SumPerDocument(groups, weights_M.defined() ? log_probs_M * weights_M : log_probs_M);
}

}  // namespace finetuned::train
