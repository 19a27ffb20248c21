#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "server/audit/rotating_file.h"

namespace finetuned::audit {

// Who did what, with which answer. Nothing of a request but the name of what it is about and its id: no data, no
// prompts, no tokens.
struct Entry {
  absl::Time time;
  std::string principal;   // "uid:1000"; empty: nobody known
  std::string peer;        // "ipv4:10.0.0.2:51634", "fd:131"
  std::string method;      // "finetuned.v1.Jobs/CreateJob"; "daemon/start" and such for the daemon's own
  std::string resource;    // "jobs/x"; empty: none
  std::string request_id;  // of the call; empty: none
  std::string code;        // "OK", "PERMISSION_DENIED"
  std::string reason;      // ErrorInfo.reason of an error
};

// One line of JSON with its line end. Texts are cut to 256 bytes; bytes that are no UTF-8 are replaced.
std::string ToLine(const Entry& entry);

// Append-only file of such lines, rotated by size. Lines are written at once and not synced: a crash of the daemon
// loses none, a power cut the last seconds. A line that cannot be written is told to the daemon's log. Thread safe.
class AuditLog {
 public:
  AuditLog(std::string path, int64_t max_bytes, int files) : file_(std::move(path), max_bytes, files) {}
  void Write(const Entry& entry);

 private:
  std::mutex mutex_;
  RotatingFile file_;          // guarded by mutex_
  bool failing_ = false;       // guarded by mutex_: already told
};

}  // namespace finetuned::audit
