#pragma once

#include "server/config/config.h"

namespace finetuned::config {

// Every key of the configuration in one place: reading, printing and listing walk over it.
// `v(key, field)` is called for scalars and lists, with a range for numbers; Begin/End around a mapping.
template <typename Visitor, typename ConfigT>
void VisitFields(Visitor& v, ConfigT& c) {
  constexpr int64_t kTiB = int64_t{1} << 40;
  constexpr absl::Duration kZero = absl::ZeroDuration();
  constexpr absl::Duration kDay = absl::Hours(24);
  v.Field("state_dir", c.state_dir);
  v.Begin("socket");
  v.Field("path", c.socket.path);
  v.Field("allowed_uids", c.socket.allowed_uids);
  v.End();
  v.Begin("tcp");
  v.Field("address", c.tcp.address);
  v.Field("tls_certificate", c.tcp.tls_certificate);
  v.Field("tls_key", c.tcp.tls_key);
  v.Field("tls_client_ca", c.tcp.tls_client_ca);
  v.Field("token_file", c.tcp.token_file);
  v.End();
  v.Begin("access");
  v.Field("own_only", c.access.own_only);
  v.Field("admins", c.access.admins);
  v.End();
  v.Begin("quotas");
  v.Number("max_queued_jobs", c.quotas.max_queued_jobs, 0, 1000000);
  v.Bytes("max_storage_bytes", c.quotas.max_storage_bytes, 0, kTiB * 1024);
  v.Time("max_device_time", c.quotas.max_device_time, kZero, 366 * kDay);
  v.Time("device_time_window", c.quotas.device_time_window, absl::Hours(1), 366 * kDay);
  v.Field("exempt", c.quotas.exempt);
  v.End();
  v.Begin("audit");
  v.Field("enabled", c.audit.enabled);
  v.Bytes("max_bytes", c.audit.max_bytes, 1 << 12, kTiB);
  v.Number("files", c.audit.files, 0, 1000);
  v.End();
  v.Field("models", c.models.models);
  v.Field("model_roots", c.models.roots);
  v.Begin("worker");
  v.Field("binary", c.worker.binary);
  v.Field("backend", c.worker.backend);
  v.Field("device", c.worker.device);
  v.Number("cpu_threads", c.worker.cpu_threads, 0, 4096);
  v.Field("prestart", c.worker.prestart);
  v.Time("start_timeout", c.worker.start_timeout, absl::Milliseconds(100), kDay);
  v.Time("heartbeat_timeout", c.worker.heartbeat_timeout, absl::Milliseconds(100), kDay);
  v.Time("progress_timeout", c.worker.progress_timeout, absl::Milliseconds(100), 30 * kDay);
  v.Time("cancel_grace", c.worker.cancel_grace, absl::Milliseconds(100), kDay);
  v.Time("leave_grace", c.worker.leave_grace, absl::Milliseconds(100), kDay);
  v.Time("idle_timeout", c.worker.idle_timeout, kZero, 365 * kDay);
  v.Number("max_crashes", c.worker.max_crashes, 1, 100);
  v.Bytes("vram_budget_bytes", c.worker.vram_budget_bytes, 0, kTiB);
  v.End();
  v.Begin("slurm");
  v.Field("script", c.slurm.script);
  v.Field("arguments", c.slurm.arguments);
  v.Bytes("vram_bytes", c.slurm.vram_bytes, 0, kTiB);
  v.Time("poll_interval", c.slurm.poll_interval, absl::Milliseconds(100), absl::Hours(1));
  v.End();
  v.Begin("metrics");
  v.Field("address", c.metrics.address);
  v.Time("job_series_linger", c.metrics.job_series_linger, kZero, kDay);
  v.End();
  v.Begin("web");
  v.Field("address", c.web.address);
  v.End();
  v.Begin("limits");
  v.Number("max_queued_jobs", c.limits.max_queued_jobs, 1, 1000000);
  v.Bytes("max_message_bytes", c.limits.max_message_bytes, 1 << 16, 256 << 20);
  v.Bytes("max_chunk_bytes", c.limits.max_chunk_bytes, 1 << 10, 16 << 20);
  v.Bytes("max_dataset_bytes", c.limits.max_dataset_bytes, 1, kTiB);
  v.Number("max_streams_per_connection", c.limits.max_streams_per_connection, 1, 10000);
  v.Bytes("max_rpc_memory_bytes", c.limits.max_rpc_memory_bytes, 32 << 20, kTiB);
  v.Number("max_watchers", c.limits.max_watchers, 1, 100000);
  v.Bytes("min_free_disk_bytes", c.limits.min_free_disk_bytes, 0, kTiB);
  v.End();
}

}  // namespace finetuned::config
