#include "engine/train/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/format/sha256.h"
#include "engine/format/strict_json.h"
#include "engine/job/failpoint.h"
#include "engine/train/files.h"

namespace finetuned::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kManifest[] = "MANIFEST.json";
constexpr char kFormatName[] = "finetuned.checkpoint";
constexpr char kStateFile[] = "trainer_state.json";
constexpr char kOptimizerFile[] = "optimizer.safetensors";
constexpr char kPrefix[] = "step-";

std::string Folder(const std::string& state_dir) { return state_dir + "/checkpoints"; }
std::string StepName(int64_t step) { return absl::StrFormat("%s%08d", kPrefix, step); }

json StateJson(const TrainerState& s, const RunIdentity& identity) {
  return {{"step", s.step},
          {"optimizer_updates", s.optimizer_updates},
          {"epoch", s.epoch},
          {"micro_batch", s.micro_batch},
          {"pass", s.pass},
          {"num_tokens", s.num_tokens},
          {"trained_tokens", s.trained_tokens},
          {"skipped_in_row", s.skipped_in_row},
          {"best_value", s.best_value ? json(*s.best_value) : json()},
          {"best_step", s.best_step},
          {"evaluations_without_improvement", s.evaluations_without_improvement},
          {"spec", identity.spec},
          {"spec_sha256", format::Sha256Hex(identity.spec.dump())},
          {"base_fingerprint", identity.base_fingerprint},
          {"dataset_sha256", identity.dataset_sha256},
          {"init_adapter_sha256", identity.init_adapter_sha256}};
}

TrainerState StateFromJson(const json& j) {
  TrainerState s;
  s.step = j.at("step");
  s.optimizer_updates = j.at("optimizer_updates");
  s.epoch = j.at("epoch");
  s.micro_batch = j.at("micro_batch");
  s.pass = j.at("pass");
  s.num_tokens = j.at("num_tokens");
  s.trained_tokens = j.at("trained_tokens");
  s.skipped_in_row = j.at("skipped_in_row");
  // Absent in checkpoints of runs before these were counted.
  if (j.contains("best_value") && !j["best_value"].is_null()) s.best_value = j["best_value"].get<double>();
  s.best_step = j.value("best_step", int64_t{0});
  s.evaluations_without_improvement = j.value("evaluations_without_improvement", int64_t{0});
  return s;
}

absl::Status WriteManifest(const std::string& directory) {
  json files = json::object();
  for (const auto& entry : fs::directory_iterator(directory)) {
    auto hash = format::Sha256File(entry.path().string());
    if (!hash.ok()) return hash.status();
    files[entry.path().filename().string()] = *hash;
  }
  const json manifest = {
      {"format", kFormatName}, {"version", kCheckpointVersion}, {"files", files}};
  return WriteFile(directory + "/" + kManifest, manifest.dump(2) + "\n");
}

absl::StatusOr<json> ReadJson(const std::string& path) {
  auto text = ReadFile(path);
  if (!text.ok()) return text.status();
  return format::ParseStrictJson(*text, path);
}

// OK: complete and undamaged. FAILED_PRECONDITION: of a version this program does not know.
absl::Status Verify(const std::string& directory) {
  auto manifest = ReadJson(directory + "/" + kManifest);
  if (!manifest.ok()) return manifest.status();
  if (!manifest->is_object() || manifest->value("format", json()) != kFormatName ||
      !manifest->value("files", json()).is_object()) {
    return absl::DataLossError(absl::StrCat(kManifest, " is not a checkpoint manifest"));
  }
  if (manifest->value("version", json()) != kCheckpointVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        directory, " has checkpoint format version ", manifest->value("version", json()).dump(),
        ", this program writes and reads version ", kCheckpointVersion));
  }
  const json& files = manifest->at("files");
  for (const char* name : {kStateFile, kOptimizerFile, "adapter_model.safetensors"}) {
    if (!files.contains(name)) return absl::DataLossError(absl::StrCat(name, " is missing"));
  }
  for (const auto& [name, wanted] : files.items()) {
    if (name.find('/') != std::string::npos) {
      return absl::DataLossError(absl::StrCat(kManifest, " names the path ", name));
    }
    auto hash = format::Sha256File(directory + "/" + name);
    if (!hash.ok()) return hash.status();
    if (wanted != *hash) {
      return absl::DataLossError(absl::StrCat(name, " does not have the hash of ", kManifest));
    }
  }
  return absl::OkStatus();
}

// trainer_state.json of a checkpoint that passed Verify.
absl::StatusOr<json> VerifiedState(const std::string& directory) {
  if (absl::Status s = Verify(directory); !s.ok()) return s;
  return ReadJson(directory + "/" + kStateFile);
}

// Complete or not, newest first.
std::vector<std::string> StepFolders(const std::string& state_dir) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(Folder(state_dir), error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, kPrefix)) found.push_back(entry.path().string());
  }
  // step-%08d sorts by number up to 10^8 steps; beyond, the longer name is the newer one.
  std::sort(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() > b.size() : a > b;
  });
  return found;
}

// What differs between two runs, for people; empty when nothing does.
std::string Differences(const json& stored, const RunIdentity& identity) {
  std::vector<std::string> found;
  const json spec = stored.value("spec", json::object());
  for (const auto& [key, value] : identity.spec.items()) {
    const json old = spec.value(key, json());
    if (old != value) found.push_back(absl::StrCat(key, " ", old.dump(), " -> ", value.dump()));
  }
  if (found.empty() && spec != identity.spec) found.push_back("settings");
  if (stored.value("base_fingerprint", "") != identity.base_fingerprint) {
    found.push_back("base model");
  }
  if (stored.value("dataset_sha256", "") != identity.dataset_sha256) found.push_back("dataset");
  if (stored.value("init_adapter_sha256", "") != identity.init_adapter_sha256) found.push_back("init_adapter");
  return absl::StrJoin(found, ", ");
}

}  // namespace

std::string CheckpointFolder(const std::string& state_dir, int64_t step) {
  return Folder(state_dir) + "/" + StepName(step);
}

absl::StatusOr<WrittenCheckpoint> WriteCheckpoint(const std::string& state_dir,
                                                  const RunIdentity& identity,
                                                  const TrainerState& state,
                                                  const lora::Adapter& adapter,
                                                  const lora::PeftDescription& description,
                                                  const Optimizer& optimizer) {
  const std::string name = StepName(state.step);
  auto directory = NewDirectory::Create(Folder(state_dir), name);
  if (!directory.ok()) return directory.status();
  const std::string& path = (*directory)->path();
  absl::Status status = lora::SavePeft(adapter, description, path);
  FT_FAILPOINT("checkpoint.adapter");
  if (status.ok()) status = optimizer.Save(path + "/" + kOptimizerFile);
  FT_FAILPOINT("checkpoint.optimizer");
  if (status.ok()) {
    status = WriteFile(path + "/" + kStateFile, StateJson(state, identity).dump(2) + "\n");
  }
  FT_FAILPOINT("checkpoint.state");
  if (status.ok()) status = WriteManifest(path);
  FT_FAILPOINT("checkpoint.manifest");
  if (!status.ok()) return status;
  auto bytes = (*directory)->Commit();
  if (!bytes.ok()) return bytes.status();

  FT_FAILPOINT("checkpoint.committed");
  return WrittenCheckpoint{CheckpointFolder(state_dir, state.step), *bytes};
}

void RemoveOldCheckpoints(const std::string& state_dir, const KeepCheckpoints& keep) {
  const std::vector<std::string> all = StepFolders(state_dir);
  std::error_code ignored;
  for (size_t i = std::max<int64_t>(1, keep.last); i < all.size(); ++i) {
    if (all[i] != CheckpointFolder(state_dir, keep.step)) fs::remove_all(all[i], ignored);
    FT_FAILPOINT("checkpoint.pruned");
  }
}

std::optional<int64_t> OldestCheckpointStep(const std::string& state_dir) {
  const std::vector<std::string> folders = StepFolders(state_dir);
  int64_t step = 0;
  if (folders.empty()) return std::nullopt;
  const std::string name = fs::path(folders.back()).filename().string();
  if (!absl::SimpleAtoi(name.substr(sizeof kPrefix - 1), &step)) return std::nullopt;
  return step;
}

absl::StatusOr<std::optional<FoundCheckpoint>> FindCheckpoint(
    const std::string& state_dir, const RunIdentity& identity,
    const std::function<void(const std::string&)>& warn) {
  RemoveLeftovers(Folder(state_dir));
  for (const std::string& directory : StepFolders(state_dir)) {
    absl::StatusOr<json> stored = VerifiedState(directory);
    if (absl::IsFailedPrecondition(stored.status())) return stored.status();
    FoundCheckpoint found{directory, {}};
    if (stored.ok()) {
      const std::string differences = Differences(*stored, identity);
      if (!differences.empty()) {
        return absl::FailedPreconditionError(absl::StrCat(
            directory, " belongs to another run, which differs in: ", differences,
            ". Use another state directory, or remove this one to start over"));
      }
      try {
        found.state = StateFromJson(*stored);
        return std::optional(found);
      } catch (const json::exception& e) {
        stored = absl::DataLossError(absl::StrCat(kStateFile, ": ", e.what()));
      }
    }
    warn(absl::StrCat("checkpoint ", directory, " is damaged and left out: ",
                      stored.status().message()));
  }
  return std::optional<FoundCheckpoint>();
}

absl::Status LoadCheckpoint(const std::string& directory, lora::Adapter* adapter,
                            Optimizer* optimizer) {
  absl::Status status = lora::LoadPeftWeights(directory, adapter);
  return status.ok() ? optimizer->Load(directory + "/" + kOptimizerFile) : status;
}

}  // namespace finetuned::train
