#pragma once

#include <string>

// Where things lie below state_dir. docs/storage.md is the page about them.
namespace finetuned::store {

inline std::string DatabasePath(const std::string& state_dir) { return state_dir + "/finetuned.db"; }
inline std::string LockPath(const std::string& state_dir) { return state_dir + "/lock"; }
inline std::string LogDir(const std::string& state_dir) { return state_dir + "/logs"; }
inline std::string WorkerSocketPath(const std::string& state_dir) { return state_dir + "/worker.sock"; }
// A dataset's bytes, by content.
inline std::string DatasetPath(const std::string& state_dir, const std::string& sha256) {
  return state_dir + "/datasets/" + sha256 + ".jsonl";
}
// An upload that is not finished.
inline std::string UploadPath(const std::string& state_dir, const std::string& dataset_id) {
  return state_dir + "/uploads/" + dataset_id + ".part";
}
// Everything the worker keeps of a job: checkpoints/, adapter/.
inline std::string JobDir(const std::string& state_dir, const std::string& uid) {
  return state_dir + "/jobs/" + uid;
}
inline std::string AdapterDir(const std::string& state_dir, const std::string& uid) {
  return JobDir(state_dir, uid) + "/adapter";
}

}  // namespace finetuned::store
