#include "server/api/job_checks.h"

#include <google/protobuf/util/field_mask_util.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/api/names.h"

namespace finetuned::api {
namespace {

using google::protobuf::FieldMask;
using google::protobuf::util::FieldMaskUtil;

constexpr size_t kMaxDisplayName = 128;
constexpr int kMaxLabels = 64;
constexpr size_t kMaxLabelKey = 63;
constexpr size_t kMaxLabelValue = 255;
constexpr int kMaxAfter = 100;

void CheckLabels(const v1::Job& job, std::vector<spec::Violation>* out) {
  if (job.labels_size() > kMaxLabels) {
    out->push_back({"job.labels", absl::StrCat("has ", job.labels_size(), " entries; at most ", kMaxLabels)});
  }
  for (const auto& [key, value] : job.labels()) {
    const bool good = !key.empty() && key.size() <= kMaxLabelKey &&
                      std::all_of(key.begin(), key.end(), [](unsigned char c) {
                        return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '/';
                      });
    if (!good) {
      out->push_back({"job.labels", absl::StrCat("key \"", key.substr(0, 80), "\" must be 1 to ", kMaxLabelKey,
                                                 " letters, digits, - _ . or /")});
    }
    if (value.size() > kMaxLabelValue) {
      out->push_back({absl::StrCat("job.labels.", key.substr(0, kMaxLabelKey)),
                      absl::StrCat("has ", value.size(), " bytes; at most ", kMaxLabelValue)});
    }
  }
}

void CheckScheduling(const v1::Scheduling& s, std::vector<spec::Violation>* out) {
  const auto range = [&](const char* field, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
      out->push_back({absl::StrCat("job.scheduling.", field),
                      absl::StrCat("must be ", low, " to ", high, ", got ", value)});
    }
  };
  range("priority", s.priority(), -100, 100);
  range("max_attempts", s.max_attempts(), 0, 100);
  range("vram_limit_bytes", s.vram_limit_bytes(), 0, int64_t{1} << 50);
  range("max_run_duration", s.max_run_duration().seconds(), 0, 315'576'000'000);
  if (s.after_size() > kMaxAfter) {
    out->push_back({"job.scheduling.after", absl::StrCat("has ", s.after_size(), " jobs; at most ", kMaxAfter)});
  }
  for (int i = 0; i < s.after_size(); ++i) {
    const std::string field = absl::StrCat("job.scheduling.after[", i, "]");
    const auto name = ParseName("jobs", s.after(i), field);
    if (!name.ok()) out->push_back({field, "must be jobs/ID of an existing job"});
  }
}

}  // namespace

std::vector<spec::Violation> CheckJobFields(const v1::Job& job) {
  std::vector<spec::Violation> out;
  if (job.display_name().size() > kMaxDisplayName) {
    out.push_back({"job.display_name",
                   absl::StrCat("has ", job.display_name().size(), " bytes; at most ", kMaxDisplayName)});
  }
  CheckLabels(job, &out);
  CheckScheduling(job.scheduling(), &out);
  if (job.ttl().seconds() < 0) out.push_back({"job.ttl", "must not be negative"});
  return out;
}

std::vector<spec::Violation> CheckRequestId(const std::string& request_id) {
  const bool good = request_id.size() <= 100 && std::all_of(request_id.begin(), request_id.end(), [](unsigned char c) {
                      return c > 0x20 && c < 0x7f;
                    });
  if (good) return {};
  return {{"request_id", "must be a UUID, or up to 100 printable ASCII characters"}};
}

std::vector<spec::Violation> CheckUpdate(const v1::UpdateJobRequest& request) {
  std::vector<spec::Violation> out = CheckJobFields(request.job());
  if (request.update_mask().paths_size() == 0) {
    out.push_back({"update_mask", "is required; allowed: display_name, labels, ttl, scheduling, scheduling.FIELD"});
  }
  for (const std::string& path : request.update_mask().paths()) {
    absl::string_view field = path;
    const bool known =
        path == "display_name" || path == "labels" || path == "ttl" || path == "scheduling" ||
        (absl::ConsumePrefix(&field, "scheduling.") &&
         v1::Scheduling::descriptor()->FindFieldByName(std::string(field)) != nullptr);
    if (!known) {
      out.push_back({"update_mask", absl::StrCat("\"", path.substr(0, 100), "\" cannot be changed; allowed: display_name, "
                                                 "labels, ttl, scheduling, scheduling.FIELD")});
    }
  }
  return out;
}

std::vector<spec::Violation> CheckReadMask(const FieldMask& mask) {
  std::vector<spec::Violation> out;
  for (const std::string& path : mask.paths()) {
    if (path != "*" && !FieldMaskUtil::IsValidPath<v1::Job>(path)) {
      out.push_back({"read_mask", absl::StrCat("\"", path.substr(0, 100), "\" is not a field of Job")});
    }
  }
  return out;
}

void ApplyReadMask(const FieldMask& mask, v1::Job* job) {
  if (mask.paths_size() == 0 || std::find(mask.paths().begin(), mask.paths().end(), "*") != mask.paths().end()) {
    return;
  }
  FieldMask with_name = mask;
  with_name.add_paths("name");
  FieldMaskUtil::TrimMessage(with_name, job);
}

}  // namespace finetuned::api
