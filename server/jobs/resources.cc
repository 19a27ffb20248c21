// Datasets and adapters.

#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/jobs/job_manager.h"
#include "server/store/layout.h"

namespace finetuned::jobs {

absl::Status JobManager::PutDataset(const v1::Dataset& dataset) {
  const std::lock_guard lock(mutex_);
  store::Transaction t;
  t.put_datasets.push_back(&dataset);
  const absl::Status status = store_->Apply(t);
  if (status.ok()) datasets_[dataset.name()] = dataset;
  return status;
}

absl::StatusOr<v1::Dataset> JobManager::GetDataset(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = datasets_.find(name);
  if (it == datasets_.end()) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  return it->second;
}

std::vector<v1::Dataset> JobManager::ListDatasets() const {
  const std::lock_guard lock(mutex_);
  std::vector<v1::Dataset> out;
  for (const auto& [name, dataset] : datasets_) out.push_back(dataset);
  return out;
}

absl::Status JobManager::DeleteDataset(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto it = datasets_.find(name);
  if (it == datasets_.end()) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  for (const auto& [job, entry] : jobs_) {
    const v1::JobSpec& spec = entry->job.spec();
    if (!queue::IsTerminal(entry->job.state()) && (spec.dataset() == name || spec.eval_dataset() == name)) {
      return absl::FailedPreconditionError(absl::StrCat(job, " still needs ", name, "; cancel it first"));
    }
  }
  store::Transaction t;
  t.delete_datasets.push_back(name);
  const absl::Status status = store_->Apply(t);
  if (!status.ok()) return status;
  const std::string sha256 = it->second.sha256();
  datasets_.erase(it);
  for (const auto& [other, dataset] : datasets_) {
    if (dataset.sha256() == sha256) return absl::OkStatus();  // the same bytes under another name
  }
  std::error_code ignored;
  std::filesystem::remove(store::DatasetPath(options_.state_dir, sha256), ignored);
  return absl::OkStatus();
}

absl::StatusOr<v1::Adapter> JobManager::GetAdapter(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = adapters_.find(name);
  if (it == adapters_.end()) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  return it->second;
}

std::vector<v1::Adapter> JobManager::ListAdapters() const {
  const std::lock_guard lock(mutex_);
  std::vector<v1::Adapter> out;
  for (const auto& [name, adapter] : adapters_) out.push_back(adapter);
  return out;
}

absl::Status JobManager::DeleteAdapter(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto it = adapters_.find(name);
  if (it == adapters_.end()) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  store::Transaction t;
  t.delete_adapters.push_back(name);
  const absl::Status status = store_->Apply(t);
  if (!status.ok()) return status;
  const Entry* entry = Find(it->second.source_job());
  adapters_.erase(it);
  std::error_code ignored;
  if (entry != nullptr) {
    std::filesystem::remove_all(store::AdapterDir(options_.state_dir, entry->job.uid()), ignored);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> JobManager::AdapterPath(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = adapters_.find(name);
  if (it == adapters_.end()) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  const Entry* entry = Find(it->second.source_job());
  if (entry == nullptr) return absl::NotFoundError(absl::StrCat("the job that made ", name, " was deleted"));
  return store::AdapterDir(options_.state_dir, entry->job.uid());
}

}  // namespace finetuned::jobs
