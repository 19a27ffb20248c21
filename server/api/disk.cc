#include "server/api/disk.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "engine/plan/memory_plan.h"
#include "server/api/error.h"

namespace finetuned::api {

absl::Status CheckFreeDisk(const std::string& folder, int64_t more, int64_t min_free) {
  struct statvfs disk;
  if (statvfs(folder.c_str(), &disk) != 0) return absl::OkStatus();
  const int64_t free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  if (free - more >= min_free) return absl::OkStatus();
  return QuotaExceeded("disk", "DISK_FULL",
                       absl::StrCat("the daemon's disk has ", plan::FormatGigabytes(free), " free and keeps ",
                                    plan::FormatGigabytes(min_free),
                                    " for checkpoints; delete datasets, jobs or adapters"));
}

absl::Status DiskError(const std::string& doing) {
  if (errno == ENOSPC || errno == EDQUOT) {
    return QuotaExceeded("disk", "DISK_FULL", "the daemon's disk is full; delete datasets, jobs or adapters");
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("storage: ", doing));
}

absl::Status SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return DiskError("open the folder");
  const int result = fsync(fd);
  close(fd);
  return result == 0 ? absl::OkStatus() : DiskError("sync the folder");
}

}  // namespace finetuned::api
