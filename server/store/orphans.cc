// Files without a row: a row is committed after its files and removed before them, so a crash between leaves files only.
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/job/failpoint.h"
#include "server/store/database.h"
#include "server/store/rows.h"

namespace finetuned::store {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::set<std::string>> Texts(Database* db, const char* sql) {
  auto query = db->Prepare(sql);
  auto rows = Collect<std::string>(&query, [](const Statement& row, std::string* text) {
    *text = row.GetBytes(0);
    return absl::OkStatus();
  });
  if (!rows.ok()) return rows.status();
  return std::set<std::string>(rows->begin(), rows->end());
}

// Entries of `dir` whose name without `suffix` is not in `known`; names of another form are not ours to judge.
absl::Status RemoveUnknown(const std::string& dir, absl::string_view suffix, const std::set<std::string>& known) {
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    absl::string_view id = name;
    if (!absl::ConsumeSuffix(&id, suffix) || absl::StartsWith(name, ".") || known.contains(std::string(id))) continue;
    std::error_code failed;
    fs::remove_all(it->path(), failed);
    FT_FAILPOINT("store.orphan_removed");
    if (failed) error = failed;
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("what a crash left cannot be removed: ", error.message()));
}

}  // namespace

absl::Status Store::RemoveOrphans() {
  std::lock_guard lock(write_mutex_);
  const auto jobs = Texts(writer_.get(), "SELECT uid FROM jobs");
  const auto adapters = Texts(writer_.get(), "SELECT directory FROM adapters");
  const auto datasets = Texts(writer_.get(), "SELECT sha256 FROM datasets");
  const auto uploads = Texts(writer_.get(), "SELECT dataset_id FROM uploads");
  for (const auto* read : {&jobs, &adapters, &datasets, &uploads}) {
    if (!read->ok()) return read->status();
  }
  const Layout& layout = options_.layout;
  // An adapter's folder is named by its job, and outlives it; before its row is there, the job has one.
  std::set<std::string> folders = *jobs;
  for (const std::string& directory : *adapters) folders.insert(fs::path(directory).filename().string());
  absl::Status status = RemoveUnknown(layout.JobsDir(), "", *jobs);
  status.Update(RemoveUnknown(layout.AdaptersDir(), "", folders));
  status.Update(RemoveUnknown(layout.DatasetsDir(), ".jsonl", *datasets));
  status.Update(RemoveUnknown(layout.UploadsDir(), ".part", *uploads));
  return status;
}

}  // namespace finetuned::store
