#include "server/metrics/storage_use.h"

#include <filesystem>

#include "absl/time/clock.h"
#include "server/store/layout.h"

namespace finetuned::metrics {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kMeasureEvery = absl::Minutes(1);

// Bytes of the files below `path`, or of the file itself. Files that go meanwhile count nothing.
double Bytes(const std::string& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return static_cast<double>(fs::file_size(path, error));
  double bytes = 0;
  fs::recursive_directory_iterator it(path, fs::directory_options::skip_permission_denied, error),
      end;
  while (!error && it != end) {
    std::error_code gone;
    if (it->is_regular_file(gone) && !it->is_symlink(gone)) {
      const auto size = it->file_size(gone);
      if (!gone) bytes += static_cast<double>(size);
    }
    it.increment(error);
  }
  return bytes;
}

}  // namespace

std::vector<prometheus::MetricFamily> StorageUse::Collect() const {
  std::lock_guard lock(mutex_);
  if (absl::Now() - measured_at_ < kMeasureEvery) return {family_};
  const store::Layout layout = {state_dir_};
  family_ = {"finetuned_storage_used_bytes",
             "Bytes the daemon keeps, by kind.",
             prometheus::MetricType::Gauge,
             {}};
  for (const auto& [kind, path] :
       {std::pair{"database", layout.Database()}, std::pair{"datasets", layout.DatasetsDir()},
        std::pair{"uploads", layout.UploadsDir()}, std::pair{"checkpoints", layout.JobsDir()},
        std::pair{"adapters", layout.AdaptersDir()}, std::pair{"logs", layout.LogDir()}}) {
    prometheus::ClientMetric metric;
    metric.label = {{"kind", kind}};
    metric.gauge.value = Bytes(path);
    family_.metric.push_back(std::move(metric));
  }
  measured_at_ = absl::Now();
  return {family_};
}

}  // namespace finetuned::metrics
