#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace finetuned::store {

// Makes the names in a directory durable. Best effort: what cannot be synced is as it was before.
inline void SyncDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

}  // namespace finetuned::store
