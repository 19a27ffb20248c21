#include "engine/plan/collector.h"

#include <utility>

namespace finetuned::plan {

int64_t AllocatorRounding(int64_t bytes) {
  constexpr int64_t kMiB = 1 << 20;
  if (bytes <= 0) return 0;
  if (bytes >= 10 * kMiB) return (bytes + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB) - bytes;
  const int64_t segment = bytes > kMiB ? 20 * kMiB : 2 * kMiB;
  const int64_t block = (bytes + 511) / 512 * 512;
  return segment / (segment / block) - bytes;
}

void Collector::Add(const char* component, std::string name, int64_t bytes, int64_t copies) {
  AddParts(component, std::move(name), {bytes / copies}, copies);
}

void Collector::AddParts(const char* component, std::string name, const std::vector<int64_t>& parts,
                         int64_t copies) {
  int64_t bytes = 0;
  for (int64_t part : parts) {
    bytes += copies * part;
    rounding_ += copies * AllocatorRounding(part);
  }
  if (bytes > 0) out_->push_back({std::move(name), component, bytes});
}

}  // namespace finetuned::plan
