#include "server/api/daemon_service.h"

#include <google/protobuf/util/time_util.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace finetuned::api {
namespace {

constexpr int64_t kDefaultGraceSeconds = 60;
constexpr int64_t kMaxGraceSeconds = 3600;

// What this version can do, for clients that know several versions.
constexpr const char* kFeatures[] = {
    "sft",     "dpo",           "kto",           "lora",          "rslora",        "dora",    "nf4",   "fp4",   "int8",  "adamw",          "adamw_8bit", "packing",
    "upload",  "preview",       "plan",          "watch",   "query_metrics",  "pause",      "checkpoint",
    "peft_export", "request_id", "etag"};

// "cuda:0 NVIDIA GeForce RTX 3090"; false for a worker on the CPU.
bool WorkerDevice(const internal::v1::WorkerHello& hello, v1::Device* device) {
  const std::vector<std::string> parts = absl::StrSplit(hello.device(), absl::MaxSplits(' ', 1));
  int32_t index = 0;
  if (!absl::StartsWith(parts[0], "cuda") || (parts[0].size() > 5 && !absl::SimpleAtoi(parts[0].substr(5), &index))) {
    return false;
  }
  device->set_index(index);
  device->set_product(parts.size() > 1 ? parts[1] : "");
  device->set_memory_total_bytes(hello.device_total_bytes());
  device->set_memory_free_bytes(hello.device_free_bytes());
  device->set_driver_version(hello.driver_version());
  device->set_cuda_version(hello.cuda_version());
  return true;
}

void AddReading(const metrics::GpuReading& reading, v1::Device* device) {
  device->set_uuid(reading.uuid);
  if (!reading.product.empty()) device->set_product(reading.product);
  if (!reading.driver.empty()) device->set_driver_version(reading.driver);
  if (reading.memory_total_bytes && reading.memory_used_bytes) {
    device->set_memory_total_bytes(static_cast<int64_t>(*reading.memory_total_bytes));
    device->set_memory_free_bytes(static_cast<int64_t>(*reading.memory_total_bytes - *reading.memory_used_bytes));
  }
  if (reading.utilization_ratio) device->set_utilization_ratio(*reading.utilization_ratio);
  if (reading.temperature_celsius) device->set_temperature_celsius(*reading.temperature_celsius);
  if (reading.power_watts) device->set_power_watts(*reading.power_watts);
  if (reading.power_limit_watts) device->set_power_limit_watts(*reading.power_limit_watts);
  if (reading.sm_clock_hertz) device->set_sm_clock_hertz(*reading.sm_clock_hertz);
}

// The worker's GPU with what the driver says of it now; with no worker so far, every GPU of the driver.
void AddDevices(const std::optional<internal::v1::WorkerHello>& hello,
                const std::vector<metrics::GpuReading>& readings, v1::ServerInfo* info) {
  if (!hello.has_value()) {
    for (const metrics::GpuReading& reading : readings) {
      v1::Device* device = info->add_devices();
      device->set_index(reading.index);
      AddReading(reading, device);
    }
    return;
  }
  v1::Device device;
  if (!WorkerDevice(*hello, &device)) return;
  for (const metrics::GpuReading& reading : readings) {
    if (readings.size() == 1 || reading.index == device.index()) AddReading(reading, &device);
  }
  *info->add_devices() = std::move(device);
}

}  // namespace

void DaemonService::Describe(v1::ServerInfo* info) const {
  const jobs::Daemon& daemon = front_.shared->daemon;
  info->set_version(daemon.version);
  for (const char* feature : kFeatures) info->add_features(feature);
  const jobs::WorkerStatus worker = daemon.jobs->Worker();
  AddDevices(worker.hello, daemon.metrics->LatestGpus(absl::Now()), info);
  info->set_worker_state(queue::WorkerStateName(worker.state));
  const config::LimitsConfig& limits = daemon.config->limits;
  auto& out = *info->mutable_limits();
  out["max_message_bytes"] = limits.max_message_bytes;
  out["max_chunk_bytes"] = limits.max_chunk_bytes;
  out["max_dataset_bytes"] = limits.max_dataset_bytes;
  out["max_queued_jobs"] = limits.max_queued_jobs;
  out["max_streams_per_connection"] = limits.max_streams_per_connection;
  info->set_instance_id(daemon.instance_id);
  *info->mutable_start_time() =
      google::protobuf::util::TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(daemon.start_time));
  for (v1::ModelInfo& model : front_.shared->models.Describe()) *info->add_models() = std::move(model);
  info->set_accepting_jobs(daemon.jobs->accepting());
}

grpc::ServerUnaryReactor* DaemonService::GetServerInfo(Context* context, const v1::GetServerInfoRequest* request,
                                                       v1::ServerInfo* response) {
  return Unary(front_, context, front_.shared->slow, *request, [=, this](const auth::Caller&) {
    Describe(response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DaemonService::DrainServer(Context* context, const v1::DrainServerRequest* request,
                                                     v1::ServerInfo* response) {
  return Unary(front_, context, front_.shared->quick, *request, [=, this](const auth::Caller& caller) {
    const absl::Status allowed = front_.shared->access.CheckAdmin(caller, "DrainServer");
    if (!allowed.ok()) return allowed;
    const int64_t grace = request->has_grace() ? request->grace().seconds() : kDefaultGraceSeconds;
    if (grace < 0 || grace > kMaxGraceSeconds) {
      return InvalidField("grace", absl::StrCat("must be 0 to ", kMaxGraceSeconds, " seconds"));
    }
    front_.shared->on_drain();  // health checks learn it first
    front_.shared->daemon.jobs->Drain(absl::Seconds(grace), request->pause_running());
    Describe(response);
    return absl::OkStatus();
  });
}

}  // namespace finetuned::api
