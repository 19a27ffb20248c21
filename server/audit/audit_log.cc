#include "server/audit/audit_log.h"

#include <nlohmann/json.hpp>

#include "server/config/log.h"

namespace finetuned::audit {
namespace {

constexpr size_t kLongestText = 256;

void Add(const char* key, const std::string& value, nlohmann::ordered_json* line) {
  if (!value.empty()) (*line)[key] = value.substr(0, kLongestText);
}

}  // namespace

std::string ToLine(const Entry& entry) {
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", entry.time, absl::UTCTimeZone());
  Add("principal", entry.principal, &line);
  Add("peer", entry.peer, &line);
  Add("method", entry.method, &line);
  Add("resource", entry.resource, &line);
  Add("request_id", entry.request_id, &line);
  Add("code", entry.code, &line);
  Add("reason", entry.reason, &line);
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void AuditLog::Write(const Entry& entry) {
  const std::string line = ToLine(entry);
  std::lock_guard lock(mutex_);
  const bool written = file_.Append(line);
  if (!written && !failing_) LogError("the audit log cannot be written; calls go on without");
  failing_ = !written;
}

}  // namespace finetuned::audit
