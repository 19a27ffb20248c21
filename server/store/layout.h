#pragma once

#include <string>
#include <string_view>

// Where everything lies below the state directory. docs/storage.md describes the same layout.
namespace finetuned::store {

// Version of the database schema; a newer database is refused, an older one is migrated on open.
inline constexpr int kSchemaVersion = 1;
// "fine" in ASCII: PRAGMA application_id of our database.
inline constexpr int kApplicationId = 0x66696e65;

struct Layout {
  std::string state_dir;  // absolute

  std::string Database() const { return state_dir + "/finetuned.db"; }
  // Held (flock) by the daemon that owns the state directory.
  std::string DaemonLock() const { return state_dir + "/daemon.lock"; }
  // Held (flock) by a living worker; contains its process id.
  std::string WorkerLock() const { return state_dir + "/worker.lock"; }
  // What the worker measured of its device; written by the worker.
  std::string DeviceMeasurement() const { return state_dir + "/device.json"; }
  std::string WorkerSocket() const { return state_dir + "/worker.sock"; }

  std::string LogDir() const { return state_dir + "/logs"; }
  std::string WorkerLog() const { return LogDir() + "/worker.log"; }  // rotated: .1 .. .3
  std::string AuditLog() const { return LogDir() + "/audit.log"; }    // rotated: .1 .. .audit.files

  std::string JobsDir() const { return state_dir + "/jobs"; }
  // checkpoints/ and, until the job has succeeded, adapter/. Written by the worker.
  std::string JobDir(std::string_view uid) const { return JobsDir() + "/" + std::string(uid); }

  // Log probabilities of references, by content: for every job with the same rows and base. Written by the worker.
  std::string ReferenceDir() const { return state_dir + "/reference"; }

  std::string DatasetsDir() const { return state_dir + "/datasets"; }
  // Content-addressed: several datasets of equal bytes share one file.
  std::string DatasetFile(std::string_view sha256) const {
    return DatasetsDir() + "/" + std::string(sha256) + ".jsonl";
  }
  std::string UploadsDir() const { return state_dir + "/uploads"; }
  std::string UploadFile(std::string_view dataset_id) const {
    return UploadsDir() + "/" + std::string(dataset_id) + ".part";
  }

  std::string AdaptersDir() const { return state_dir + "/adapters"; }
  // PEFT folder of the adapter a job made, moved here when it succeeds. `uid` is the job's.
  std::string AdapterDir(std::string_view uid) const { return AdaptersDir() + "/" + std::string(uid); }
};

}  // namespace finetuned::store
