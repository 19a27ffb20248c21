#include "server/config/log.h"

#include <unistd.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace finetuned {
namespace {

std::atomic<bool> to_journal{false};

}  // namespace

void SetLogToJournal(bool journal) { to_journal = journal; }

void Log(Severity severity, const std::string& text) {
  static constexpr const char* kNames[] = {"info", "warning", "error"};
  static constexpr const char* kPriorities[] = {"<6>", "<4>", "<3>"};
  const int level = static_cast<int>(severity);
  const std::string head =
      to_journal ? std::string(kPriorities[level])
                 : absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
                                " ", kNames[level], ": ");
  // One write per line: lines of different threads do not mix.
  const std::string line = absl::StrCat(head, text, "\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace finetuned
