#!/usr/bin/env python3
"""Writes finetuned.json, the Grafana dashboard, from the table of panels below.

Usage: make_dashboard.py          write finetuned.json
       make_dashboard.py --check  exit 1 when finetuned.json is not what this script writes
"""

import json
import pathlib
import sys

OUTPUT = pathlib.Path(__file__).with_name("finetuned.json")

# Row -> panels (title, unit of Grafana, [(query, legend)]). {{label}} in a legend is the series' label.
ROWS = {
    "Overview": [
        ("Jobs by state", "short", [('sum by (state) (finetuned_jobs) > 0', "{{state}}")]),
        ("Ready", "short", [("finetuned_ready", "ready")]),
        ("Finished jobs", "short", [("sum by (outcome) (finetuned_jobs_finished_total)", "{{outcome}}")]),
        ("Oldest job in the queue", "s",
         [("(time() - finetuned_queue_oldest_enqueued_timestamp_seconds) and "
           "finetuned_queue_oldest_enqueued_timestamp_seconds > 0", "waits for")]),
    ],
    "Training": [
        ("Loss", "short", [("finetuned_train_loss", "{{job_id}}"),
                           ("finetuned_eval_loss", "{{job_id}} held-out")]),
        ("Steps", "short", [("finetuned_train_step", "{{job_id}}"),
                            ("finetuned_train_target_steps", "{{job_id}} planned")]),
        ("Tokens per second", "short",
         [("sum by (job_id, kind) (rate(finetuned_train_tokens_total[1m]))", "{{job_id}} {{kind}}")]),
        ("Model FLOP/s", "short",
         [("sum by (job_id) (rate(finetuned_train_flops_total[1m]))", "{{job_id}}")]),
        ("Learning rate", "sci", [("finetuned_train_learning_rate", "{{job_id}}")]),
        ("Gradient norm", "short", [("finetuned_train_gradient_norm", "{{job_id}}")]),
        ("Time by phase, mean", "s",
         [("sum by (phase) (rate(finetuned_train_phase_duration_seconds_sum[5m])) / "
           "sum by (phase) (rate(finetuned_train_phase_duration_seconds_count[5m]))", "{{phase}}")]),
    ],
    "Preferences and rewards": [
        ("Reward margin", "short", [("finetuned_preference_reward_margin", "{{job_id}}")]),
        ("Pairs in the right order", "percentunit",
         [('sum by (job_id) (rate(finetuned_preference_pairs_total{result="correct"}[5m])) / '
           "sum by (job_id) (rate(finetuned_preference_pairs_total[5m]))", "{{job_id}}")]),
        ("Mean reward", "short", [("finetuned_rollout_reward_mean", "{{job_id}} {{reward}}")]),
        ("Groups without spread", "percentunit",
         [('sum by (job_id) (rate(finetuned_rollout_groups_total{spread="zero"}[5m])) / '
           "sum by (job_id) (rate(finetuned_rollout_groups_total[5m]))", "{{job_id}}")]),
        ("KL to the reference, entropy", "short", [("finetuned_policy_kl", "{{job_id}} KL"),
                                                   ("finetuned_policy_entropy", "{{job_id}} entropy")]),
        ("Generated tokens per second", "short",
         [("sum by (job_id) (rate(finetuned_rollout_tokens_total[1m]))", "{{job_id}}")]),
        ("Cut completions", "percentunit",
         [('sum by (job_id) (rate(finetuned_rollout_completions_total{finish_reason="length"}[5m])) / '
           "sum by (job_id) (rate(finetuned_rollout_completions_total[5m]))", "{{job_id}}")]),
        ("Reward workers", "short", [("finetuned_reward_workers", "attached")]),
        ("Reward batches", "short", [("sum by (result) (finetuned_reward_batches_total)", "{{result}}")]),
    ],
    "Memory": [
        ("Plan by component", "bytes",
         [("finetuned_job_memory_predicted_bytes > 0", "{{job_id}} {{component}}")]),
        ("Peak against plan", "bytes",
         [("finetuned_job_memory_peak_bytes", "{{job_id}} peak"),
          ("sum by (job_id) (finetuned_job_memory_predicted_bytes)", "{{job_id}} plan")]),
        ("Device memory", "bytes",
         [("finetuned_gpu_memory_used_bytes", "GPU {{gpu}} used"),
          ("finetuned_gpu_memory_budget_bytes", "GPU {{gpu}} budget"),
          ("finetuned_gpu_memory_total_bytes", "GPU {{gpu}} total"),
          ("finetuned_gpu_memory_allocator_bytes", "GPU {{gpu}} {{kind}}")]),
        ("Out of memory", "short", [("finetuned_gpu_out_of_memory_total", "{{phase}}")]),
    ],
    "GPU": [
        ("Utilization", "percentunit", [("finetuned_gpu_utilization_ratio", "GPU {{gpu}}")]),
        ("Power", "watt", [("rate(finetuned_gpu_energy_joules_total[1m])", "GPU {{gpu}}"),
                           ("finetuned_gpu_power_limit_watts", "GPU {{gpu}} limit")]),
        ("Temperature", "celsius", [("finetuned_gpu_temperature_celsius", "GPU {{gpu}} {{sensor}}")]),
        ("SM clock", "hertz", [("finetuned_gpu_sm_clock_hertz", "GPU {{gpu}}")]),
        ("Throttled", "percentunit",
         [("rate(finetuned_gpu_throttle_seconds_total[1m])", "GPU {{gpu}} {{reason}}")]),
        ("XID errors", "short", [("finetuned_gpu_xid_errors_total > 0", "GPU {{gpu}} XID {{xid}}")]),
    ],
    "Reliability": [
        ("Attempts by cause", "short", [("sum by (cause) (finetuned_job_attempts_total)", "{{cause}}")]),
        ("Refused submissions", "short",
         [("sum by (reason) (finetuned_job_admission_rejections_total)", "{{reason}}")]),
        ("Skipped steps", "short", [("finetuned_train_nonfinite_steps_total", "{{job_id}}")]),
        ("Age of the last checkpoint", "s",
         [("time() - finetuned_checkpoint_last_success_timestamp_seconds", "{{job_id}}")]),
        ("Checkpoint write, 90th percentile", "s",
         [("histogram_quantile(0.9, sum by (le) (finetuned_checkpoint_write_duration_seconds_bucket))", "p90")]),
        ("Checkpoint failures", "short",
         [("finetuned_checkpoint_failures_total", "{{operation}} {{reason}}")]),
        ("Queue wait, median", "s",
         [("histogram_quantile(0.5, sum by (le) (finetuned_job_queue_wait_seconds_bucket))", "median")]),
    ],
    "Storage and streams": [
        ("Kept by the daemon", "bytes", [("finetuned_storage_used_bytes", "{{kind}}")]),
        ("Free space", "bytes", [("finetuned_storage_free_bytes", "free"),
                                 ("finetuned_storage_size_bytes", "size")]),
        ("Journal sync, 99th percentile", "s",
         [("histogram_quantile(0.99, sum by (le) (rate(finetuned_journal_sync_duration_seconds_bucket[5m])))",
           "p99")]),
        ("First token of a sample, median", "s",
         [("histogram_quantile(0.5, sum by (le) (finetuned_sample_time_to_first_token_seconds_bucket))", "median")]),
        ("Watchers", "short", [("finetuned_watch_streams", "open")]),
    ],
}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24


def panel(number, title, unit, queries, x, y):
    return {
        "id": number, "type": "timeseries", "title": title,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0 if unit != "sci" else None}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [{"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend}
                    for i, (expr, legend) in enumerate(queries)],
    }


def dashboard():
    panels, y = [], 0
    for row, members in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        y += 1
        per_line = COLUMNS // WIDTH
        for i, (title, unit, queries) in enumerate(members):
            panels.append(panel(len(panels) + 1, title, unit, queries, i % per_line * WIDTH,
                                y + i // per_line * HEIGHT))
        y += -(-len(members) // per_line) * HEIGHT
    return {
        "uid": "finetuned", "title": "finetuned", "tags": ["finetuned"], "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "5s", "time": {"from": "now-30m", "to": "now"}, "timezone": "",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "annotations": {"list": []}, "panels": panels,
    }


def main():
    text = json.dumps(dashboard(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        if not OUTPUT.exists() or OUTPUT.read_text() != text:
            print(f"{OUTPUT.name} is out of date: run {pathlib.Path(__file__).name}", file=sys.stderr)
            return 1
        return 0
    OUTPUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
