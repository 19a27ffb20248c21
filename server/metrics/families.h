#pragma once

#include <string>

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

namespace finetuned::metrics {

// Every family, registered once with its name and help.
struct Families {
  using Gauges = prometheus::Family<prometheus::Gauge>&;
  using Counters = prometheus::Family<prometheus::Counter>&;
  using Histograms = prometheus::Family<prometheus::Histogram>&;

  explicit Families(prometheus::Registry* registry);

  // daemon and queue
  Gauges build_info, ready, jobs;
  Counters submitted, finished, rejections, attempts, preemptions;
  Histograms queue_wait, run_duration;
  Gauges oldest_enqueued;
  // the job on the device
  Gauges job_info, train_step, target_steps, last_step_time, train_loss, eval_loss, learning_rate,
      gradient_norm;
  Counters nonfinite_steps, tokens, flops;
  Histograms phase_duration;
  // preferences and rollouts
  Gauges reward_margin;
  Counters preference_pairs;
  Gauges reward_mean;
  Counters rollout_groups, rollout_completions, rollout_tokens;
  Gauges policy_kl, policy_entropy;
  Gauges predicted_bytes, peak_bytes, last_checkpoint_time;
  // device
  Gauges gpu_info, gpu_total, gpu_used, gpu_budget, gpu_allocator, gpu_utilization, gpu_power_limit,
      gpu_temperature, gpu_sm_clock;
  Counters gpu_energy, gpu_throttle, gpu_xid;
  Histograms prediction_ratio;
  Counters out_of_memory;
  // rewards computed outside
  Gauges reward_workers;
  Counters reward_batches;
  Histograms reward_duration;
  // store and streams
  Histograms checkpoint_duration;
  Counters checkpoint_failures;
  Gauges storage_free, storage_size;
  Histograms journal_sync;
  Histograms first_token;
  Gauges watch_streams;
  Counters watch_closed;
};

}  // namespace finetuned::metrics
