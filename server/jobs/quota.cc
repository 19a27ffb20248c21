#include "server/jobs/quota.h"

#include <google/rpc/error_details.pb.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/config/log.h"
#include "server/jobs/errors.h"

namespace finetuned::jobs {
namespace {

absl::Status Exceeded(const std::string& principal, const std::string& reason, const std::string& message) {
  absl::Status status = ErrorWithInfo(absl::StatusCode::kResourceExhausted, message, reason, {{"principal", principal}});
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(principal);
  violation->set_description(message);
  AddDetail(&status, failure);
  return status;
}

int64_t HourOf(absl::Time time) { return absl::ToUnixSeconds(time) / 3600; }

// The value's text: "HOUR SECONDS" separated by commas.
std::string Key(const std::string& principal) { return "device_time/" + principal; }

}  // namespace

bool IsExempt(const config::QuotasConfig& quotas, const std::string& principal) {
  return std::find(quotas.exempt.begin(), quotas.exempt.end(), principal) != quotas.exempt.end();
}

absl::Status CheckQueued(const config::QuotasConfig& quotas, const std::string& principal, int64_t queued) {
  if (quotas.max_queued_jobs == 0 || IsExempt(quotas, principal) || queued < quotas.max_queued_jobs) {
    return absl::OkStatus();
  }
  return Exceeded(principal, "QUOTA_QUEUED_JOBS",
                  absl::StrCat(principal, " has ", queued, " jobs in the queue; its quota is ", quotas.max_queued_jobs,
                               " (quotas.max_queued_jobs). Wait until one has run, or cancel one"));
}

absl::Status CheckStorage(const config::QuotasConfig& quotas, const std::string& principal, int64_t bytes) {
  if (quotas.max_storage_bytes == 0 || IsExempt(quotas, principal) || bytes <= quotas.max_storage_bytes) {
    return absl::OkStatus();
  }
  return Exceeded(principal, "QUOTA_STORAGE",
                  absl::StrCat(principal, " would keep ", bytes, " bytes; its quota is ", quotas.max_storage_bytes,
                               " (quotas.max_storage_bytes). Delete datasets, adapters or ended jobs"));
}

absl::Status CheckDeviceTime(const config::QuotasConfig& quotas, const std::string& principal, absl::Duration used) {
  if (quotas.max_device_time == absl::ZeroDuration() || IsExempt(quotas, principal) || used < quotas.max_device_time) {
    return absl::OkStatus();
  }
  return Exceeded(
      principal, "QUOTA_DEVICE_TIME",
      absl::StrFormat("jobs of %s held the device for %s of the last %s; its quota is %s (quotas.max_device_time). "
                      "Try again later",
                      principal, absl::FormatDuration(absl::Floor(used, absl::Seconds(1))),
                      absl::FormatDuration(quotas.device_time_window), absl::FormatDuration(quotas.max_device_time)));
}

DeviceTime::Hours& DeviceTime::Load(const std::string& principal) {
  const auto [found, added] = hours_.try_emplace(principal);
  if (!added) return found->second;
  const auto stored = store_->GetValue(Key(principal));
  if (!stored.ok()) return found->second;
  for (const absl::string_view entry : absl::StrSplit(*stored, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(entry, absl::MaxSplits(' ', 1));
    int64_t hour = 0;
    double seconds = 0;
    if (absl::SimpleAtoi(parts.first, &hour) && absl::SimpleAtod(parts.second, &seconds)) found->second[hour] = seconds;
  }
  return found->second;
}

void DeviceTime::Add(const std::string& principal, absl::Time start, absl::Time end, absl::Duration window) {
  Hours& hours = Load(principal);
  for (absl::Time at = start; at < end;) {
    const absl::Time next = std::min(end, absl::FromUnixSeconds((HourOf(at) + 1) * 3600));
    hours[HourOf(at)] += absl::ToDoubleSeconds(next - at);
    at = next;
  }
  hours.erase(hours.begin(), hours.lower_bound(HourOf(end - window)));
  std::string text;
  for (const auto& [hour, seconds] : hours) absl::StrAppend(&text, text.empty() ? "" : ",", hour, " ", seconds);
  const absl::Status kept = store_->PutValue(Key(principal), text);
  if (!kept.ok()) LogWarning(absl::StrCat("the device time of ", principal, " is not stored: ", kept.message()));
}

absl::Duration DeviceTime::Used(const std::string& principal, absl::Time now, absl::Duration window) {
  const Hours& hours = Load(principal);
  double seconds = 0;
  for (auto it = hours.lower_bound(HourOf(now - window)); it != hours.end(); ++it) seconds += it->second;
  return absl::Seconds(seconds);
}

}  // namespace finetuned::jobs
