#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/config/config.h"
#include "server/store/store.h"

// Quotas of principals (config::QuotasConfig).
namespace finetuned::jobs {

bool IsExempt(const config::QuotasConfig& quotas, const std::string& principal);

// RESOURCE_EXHAUSTED with ErrorInfo QUOTA_QUEUED_JOBS, QUOTA_STORAGE or QUOTA_DEVICE_TIME and a QuotaFailure, when the
// principal has `queued` jobs, would have `bytes` or has used `used` already.
absl::Status CheckQueued(const config::QuotasConfig& quotas, const std::string& principal, int64_t queued);
absl::Status CheckStorage(const config::QuotasConfig& quotas, const std::string& principal, int64_t bytes);
absl::Status CheckDeviceTime(const config::QuotasConfig& quotas, const std::string& principal, absl::Duration used);

// How long each principal's jobs held the device, by hour. Kept in the store, so that neither a restart nor deleting
// the jobs gives time back. One thread.
class DeviceTime {
 public:
  explicit DeviceTime(store::Store* store) : store_(store) {}

  // An attempt held the device from `start` to `end`.
  void Add(const std::string& principal, absl::Time start, absl::Time end, absl::Duration window);
  // Within `window` before `now`; hours that lie in it partly count whole.
  absl::Duration Used(const std::string& principal, absl::Time now, absl::Duration window);

 private:
  using Hours = std::map<int64_t, double>;  // hours since 1970 -> seconds
  Hours& Load(const std::string& principal);

  store::Store* const store_;
  std::map<std::string, Hours> hours_;  // of principals seen since the start
};

}  // namespace finetuned::jobs
