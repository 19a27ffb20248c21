#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Folders that are either complete on disk or not there.
namespace finetuned::train {

// Exclusive lock of a state directory (flock on its file LOCK), held until destroyed; the kernel drops
// it when the process dies.
class DirectoryLock {
 public:
  // Creates the directory when needed. FAILED_PRECONDITION when another process holds it.
  static absl::StatusOr<std::unique_ptr<DirectoryLock>> Take(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

// A folder under construction beside its final place, `parent`/.tmp-`name`. Destroyed without Commit,
// it is removed.
class NewDirectory {
 public:
  static absl::StatusOr<std::unique_ptr<NewDirectory>> Create(const std::string& parent,
                                                              const std::string& name);
  ~NewDirectory();
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

  const std::string& path() const { return temporary_; }

  // Syncs every file and the folder, moves it to its place (replacing what is there) and syncs the
  // parent. Returns the bytes of its files.
  absl::StatusOr<int64_t> Commit();

 private:
  NewDirectory(std::string parent, std::string name);

  const std::string parent_, target_, temporary_;
  bool committed_ = false;
};

// Removes what earlier processes left unfinished below `parent`.
void RemoveLeftovers(const std::string& parent);

absl::Status WriteFile(const std::string& path, std::string_view content);
// Also creates the folder; the file is complete on disk or as it was before.
absl::Status WriteFileDurably(const std::string& path, std::string_view content);
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace finetuned::train
