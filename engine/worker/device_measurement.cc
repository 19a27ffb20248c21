#include "engine/worker/device_measurement.h"

#include <filesystem>
#include <fstream>

#include "nlohmann/json.hpp"

namespace finetuned::worker {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;

// What a measurement holds for.
json KeyOf(const DeviceInfo& device) {
  return {{"format", kFormat},          {"device", device.name},
          {"driver", device.driver_version}, {"cuda", device.cuda_version},
          {"libtorch", device.libtorch_version}, {"program", FINETUNED_VERSION}};
}

std::optional<plan::DeviceConstants> Read(const std::string& path, const json& key) {
  std::ifstream in(path);
  const json kept = json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!kept.is_object() || !kept.contains("key") || kept["key"] != key) return std::nullopt;
  plan::DeviceConstants constants;
  constants.context_bytes = kept.value("context_bytes", int64_t{0});
  constants.workspace_bytes = kept.value("workspace_bytes", int64_t{0});
  if (constants.context_bytes <= 0 || constants.workspace_bytes < 0) return std::nullopt;
  return constants;
}

// Whole or not at all.
void Write(const std::string& path, const json& key, const plan::DeviceConstants& constants) {
  const std::string next = path + ".new";
  const json kept = {
      {"key", key}, {"context_bytes", constants.context_bytes}, {"workspace_bytes", constants.workspace_bytes}};
  std::ofstream out(next, std::ios::trunc);
  out << kept.dump(2) << "\n";
  out.close();
  std::error_code ignored;
  if (out) std::filesystem::rename(next, path, ignored);
}

}  // namespace

std::optional<plan::DeviceConstants> MeasuredOnce(const std::string& path, const DeviceInfo& device,
                                                  const Measure& measure) {
  if (path.empty() || device.name == "cpu") return std::nullopt;
  const json key = KeyOf(device);
  if (const auto kept = Read(path, key)) return kept;
  const auto measured = measure();
  if (measured) Write(path, key, *measured);
  return measured;
}

}  // namespace finetuned::worker
