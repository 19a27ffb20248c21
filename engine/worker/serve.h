#pragma once

#include <string>

namespace finetuned::worker {

struct ServeOptions {
  std::string address;         // "unix:///path" of the daemon's worker socket
  int token_fd = -1;           // where the daemon's token is read from
  std::string device = "auto";
  std::string measurement_file;  // see MeasuredOnce
};

// Runs the daemon's jobs one after another, keeping the last base model loaded, until told to shut
// down or until the daemon is gone (a running job then leaves with a checkpoint). Exit code.
int Serve(const ServeOptions& options);

}  // namespace finetuned::worker
