#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace finetuned::spec {

// Where the daemon listens and clients look when nothing else is configured: a root daemon under /run,
// a user's own under $XDG_RUNTIME_DIR (else ~/.local/state).
inline std::string DefaultSocketPath() {
  if (geteuid() == 0) return "/run/finetuned/finetuned.sock";
  if (const char* runtime = std::getenv("XDG_RUNTIME_DIR"); runtime != nullptr && *runtime == '/') {
    return std::string(runtime) + "/finetuned/finetuned.sock";
  }
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "/tmp") + "/.local/state/finetuned/finetuned.sock";
}

}  // namespace finetuned::spec
