#include "engine/train/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/job/failpoint.h"

namespace finetuned::train {
namespace {

namespace fs = std::filesystem;

constexpr char kTemporary[] = ".tmp-";
constexpr char kReplaced[] = ".old-";

absl::Status ErrnoError(const char* what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", strerror(errno)));
}

absl::Status SyncPath(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) return ErrnoError("open", path);
  const int failed = fsync(fd);
  absl::Status status = failed != 0 ? ErrnoError("sync", path) : absl::OkStatus();
  close(fd);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DirectoryLock>> DirectoryLock::Take(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot create ", directory, ": ", error.message()));
  }
  const std::string path = directory + "/LOCK";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoError("open", path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return absl::FailedPreconditionError(
        absl::StrCat(directory, " is in use by another run (", path, " is locked)"));
  }
  return std::unique_ptr<DirectoryLock>(new DirectoryLock(fd));
}

DirectoryLock::~DirectoryLock() { close(fd_); }

NewDirectory::NewDirectory(std::string parent, std::string name)
    : parent_(std::move(parent)),
      target_(parent_ + "/" + name),
      temporary_(parent_ + "/" + kTemporary + name) {}

absl::StatusOr<std::unique_ptr<NewDirectory>> NewDirectory::Create(const std::string& parent,
                                                                   const std::string& name) {
  std::unique_ptr<NewDirectory> created(new NewDirectory(parent, name));
  std::error_code error;
  const bool first = fs::create_directories(parent, error);
  if (first) {
    // Else a power cut could take the parent with everything that is complete in it.
    const fs::path above = fs::absolute(parent).parent_path();
    absl::Status synced = SyncPath(above.string(), O_RDONLY | O_DIRECTORY);
    if (!synced.ok()) return synced;
  }
  fs::remove_all(created->temporary_, error);
  FT_FAILPOINT("files.old_temporary_removed");
  fs::create_directories(created->temporary_, error);
  FT_FAILPOINT("files.temporary_made");
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot create ", created->temporary_, ": ", error.message()));
  }
  return created;
}

NewDirectory::~NewDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

absl::StatusOr<int64_t> NewDirectory::Commit() {
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(temporary_)) {
    if (absl::Status s = SyncPath(entry.path().string(), O_RDONLY); !s.ok()) return s;
    FT_FAILPOINT("files.file_synced");
    bytes += static_cast<int64_t>(entry.file_size());
  }
  if (absl::Status s = SyncPath(temporary_, O_RDONLY | O_DIRECTORY); !s.ok()) return s;
  FT_FAILPOINT("files.temporary_synced");
  // A folder cannot replace one that is not empty in one call; what was there goes aside first.
  const std::string aside = absl::StrCat(parent_, "/", kReplaced, fs::path(target_).filename().string());
  std::error_code error;
  fs::remove_all(aside, error);
  if (fs::exists(target_)) {
    fs::rename(target_, aside, error);
    FT_FAILPOINT("files.old_aside");
  }
  if (!error) fs::rename(temporary_, target_, error);
  FT_FAILPOINT("files.moved");
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot move ", temporary_, " to ", target_, ": ", error.message()));
  }
  committed_ = true;
  if (absl::Status s = SyncPath(parent_, O_RDONLY | O_DIRECTORY); !s.ok()) return s;
  FT_FAILPOINT("files.parent_synced");
  fs::remove_all(aside, error);
  return bytes;
}

void RemoveLeftovers(const std::string& parent) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, kReplaced)) {
      // Stopped between the two renames of Commit: the old one is the only complete one.
      const fs::path original = fs::path(parent) / name.substr(std::strlen(kReplaced));
      if (!fs::exists(original)) {
        fs::rename(entry.path(), original, error);
        FT_FAILPOINT("files.old_restored");
        continue;
      }
    }
    if (absl::StartsWith(name, kTemporary) || absl::StartsWith(name, kReplaced)) {
      fs::remove_all(entry.path(), error);
      FT_FAILPOINT("files.leftover_removed");
    }
  }
}

absl::Status WriteFile(const std::string& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  return out ? absl::OkStatus() : ErrnoError("write", path);
}

absl::Status WriteFileDurably(const std::string& path, std::string_view content) {
  const std::string folder = fs::path(path).parent_path().string();
  const std::string temporary = absl::StrCat(folder, "/", kTemporary, fs::path(path).filename().string());
  std::error_code error;
  fs::create_directories(folder, error);
  absl::Status status = WriteFile(temporary, content);
  FT_FAILPOINT("files.single_written");
  if (status.ok()) status = SyncPath(temporary, O_RDONLY);
  FT_FAILPOINT("files.single_synced");
  if (!status.ok()) return status;
  fs::rename(temporary, path, error);
  FT_FAILPOINT("files.single_moved");
  if (error) return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", error.message()));
  return SyncPath(folder, O_RDONLY | O_DIRECTORY);
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace finetuned::train
