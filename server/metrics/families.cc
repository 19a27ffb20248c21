#include "server/metrics/families.h"

namespace finetuned::metrics {
namespace {

auto& Gauge(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
}
auto& Counter(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}
auto& Histogram(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry);
}

}  // namespace

Families::Families(prometheus::Registry* r)
    : build_info(Gauge(r, "finetuned_build_info", "Build and runtime versions; value is always 1.")),
      ready(Gauge(r, "finetuned_ready", "1 if the daemon accepts new jobs.")),
      jobs(Gauge(r, "finetuned_jobs", "Jobs known to the daemon, by state and method.")),
      submitted(Counter(r, "finetuned_jobs_submitted_total", "Accepted submissions.")),
      finished(Counter(r, "finetuned_jobs_finished_total", "Jobs that reached a terminal state.")),
      rejections(Counter(r, "finetuned_job_admission_rejections_total", "Submissions refused, by reason.")),
      attempts(Counter(r, "finetuned_job_attempts_total", "Attempts started, by what caused them.")),
      preemptions(Counter(r, "finetuned_job_preemptions_total",
                          "Jobs moved off the GPU for a higher priority.")),
      queue_wait(Histogram(r, "finetuned_job_queue_wait_seconds",
                           "Time from acceptance (or requeue) to start.")),
      run_duration(Histogram(r, "finetuned_job_run_duration_seconds",
                             "Time holding the GPU, summed over attempts.")),
      oldest_enqueued(Gauge(r, "finetuned_queue_oldest_enqueued_timestamp_seconds",
                            "Unix time the head of the queue was accepted; 0 if empty.")),
      job_info(Gauge(r, "finetuned_job_info", "Metadata of jobs holding the GPU; join on job_id.")),
      train_step(Gauge(r, "finetuned_train_step",
                       "Optimizer steps completed by the running job (can fall on resume).")),
      target_steps(Gauge(r, "finetuned_train_target_steps", "Optimizer steps planned.")),
      last_step_time(Gauge(r, "finetuned_train_last_step_timestamp_seconds",
                           "Unix time of the last finished step.")),
      train_loss(Gauge(r, "finetuned_train_loss", "Training loss of the last step.")),
      eval_loss(Gauge(r, "finetuned_eval_loss", "Loss on the evaluation set.")),
      learning_rate(Gauge(r, "finetuned_train_learning_rate", "Learning rate of the last step.")),
      gradient_norm(Gauge(r, "finetuned_train_gradient_norm", "Global gradient norm before clipping.")),
      nonfinite_steps(Counter(r, "finetuned_train_nonfinite_steps_total",
                              "Steps skipped because loss or gradients were not finite.")),
      tokens(Counter(r, "finetuned_train_tokens_total",
                     "Tokens processed, split into trained, masked and padding.")),
      flops(Counter(r, "finetuned_train_flops_total", "Model floating point operations, for MFU.")),
      phase_duration(Histogram(r, "finetuned_train_phase_duration_seconds", "Time of one phase of one step.")),
      reward_margin(Gauge(r, "finetuned_preference_reward_margin",
                          "Mean chosen minus rejected implicit reward.")),
      preference_pairs(Counter(r, "finetuned_preference_pairs_total",
                               "Preference pairs seen, by whether chosen outscored rejected.")),
      reward_mean(Gauge(r, "finetuned_rollout_reward_mean", "Mean reward of the last rollout batch.")),
      rollout_groups(Counter(r, "finetuned_rollout_groups_total",
                             "Rollout groups, by whether rewards had any spread.")),
      rollout_completions(Counter(r, "finetuned_rollout_completions_total", "Completions, by finish reason.")),
      rollout_tokens(Counter(r, "finetuned_rollout_tokens_total", "Tokens generated.")),
      policy_kl(Gauge(r, "finetuned_policy_kl", "Mean KL to the reference policy, nats per token.")),
      policy_entropy(Gauge(r, "finetuned_policy_entropy", "Mean token entropy in nats.")),
      predicted_bytes(Gauge(r, "finetuned_job_memory_predicted_bytes",
                            "Plan made at admission, by component.")),
      peak_bytes(Gauge(r, "finetuned_job_memory_peak_bytes", "Highest device memory of the running job.")),
      last_checkpoint_time(Gauge(r, "finetuned_checkpoint_last_success_timestamp_seconds",
                                 "Unix time of the last durable checkpoint.")),
      gpu_info(Gauge(r, "finetuned_gpu_info", "GPU identity.")),
      gpu_total(Gauge(r, "finetuned_gpu_memory_total_bytes", "Device memory.")),
      gpu_used(Gauge(r, "finetuned_gpu_memory_used_bytes", "Device memory used by anyone.")),
      gpu_budget(Gauge(r, "finetuned_gpu_memory_budget_bytes", "Device memory the daemon may use.")),
      gpu_allocator(Gauge(r, "finetuned_gpu_memory_allocator_bytes", "Caching allocator, by kind.")),
      gpu_utilization(Gauge(r, "finetuned_gpu_utilization_ratio", "Share of time a kernel ran.")),
      gpu_power_limit(Gauge(r, "finetuned_gpu_power_limit_watts", "Enforced power limit.")),
      gpu_temperature(Gauge(r, "finetuned_gpu_temperature_celsius", "Temperature.")),
      gpu_sm_clock(Gauge(r, "finetuned_gpu_sm_clock_hertz", "SM clock.")),
      gpu_energy(Counter(r, "finetuned_gpu_energy_joules_total", "Energy used.")),
      gpu_throttle(Counter(r, "finetuned_gpu_throttle_seconds_total",
                           "Time clocks were held down, by reason.")),
      gpu_xid(Counter(r, "finetuned_gpu_xid_errors_total", "Driver XID errors.")),
      prediction_ratio(Histogram(r, "finetuned_memory_prediction_ratio",
                                 "Measured peak over predicted peak of finished attempts.")),
      out_of_memory(Counter(r, "finetuned_gpu_out_of_memory_total",
                            "Device out-of-memory events, by whether the job went on.")),
      reward_workers(Gauge(r, "finetuned_reward_workers", "Attached reward workers.")),
      reward_batches(Counter(r, "finetuned_reward_batches_total", "Reward batches, by result.")),
      reward_duration(Histogram(r, "finetuned_reward_batch_duration_seconds",
                                "Time a reward batch was out with a worker.")),
      checkpoint_duration(Histogram(r, "finetuned_checkpoint_write_duration_seconds",
                                    "Time to make a checkpoint durable.")),
      checkpoint_failures(Counter(r, "finetuned_checkpoint_failures_total",
                                  "Checkpoint writes or reads that failed.")),
      storage_free(Gauge(r, "finetuned_storage_free_bytes", "Free space of the state file system.")),
      storage_size(Gauge(r, "finetuned_storage_size_bytes", "Size of the state file system.")),
      journal_sync(Histogram(r, "finetuned_journal_sync_duration_seconds",
                             "Time of one fsync of the job store.")),
      first_token(Histogram(r, "finetuned_sample_time_to_first_token_seconds",
                            "Time to first token of a sample request.")),
      watch_streams(Gauge(r, "finetuned_watch_streams", "Open event streams.")),
      watch_closed(Counter(r, "finetuned_watch_closed_total", "Event streams closed by the daemon.")) {}

}  // namespace finetuned::metrics
