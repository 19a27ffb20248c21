"""Runs tiny jobs with watchers one after another for as long as asked, samples the memory of daemon and worker and fits a
line through the samples after the first tenth.

Usage: soak.py BUILD_DIR --seconds N [--out FILE.json] [--pause S] [--limit MB_PER_HOUR]
Exit code 1: a job failed, or with --limit, a slope above it. Not part of the tests' suite: docs/reliability.md has figures.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import harness

TINY = harness.ROOT / "tests/golden/parity/tied"
WATCHERS = 4
KEPT = 50  # finished jobs; older ones are removed, so that the database stays as large as it is


def rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def slope_mb_per_hour(samples):
    """Least squares through [(seconds, bytes)]."""
    if len(samples) < 3:
        return None
    mean_t = sum(t for t, _ in samples) / len(samples)
    mean_b = sum(b for _, b in samples) / len(samples)
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return sum((t - mean_t) * (b - mean_b) for t, b in samples) / spread * 3600 / 1e6


def one_job(daemon, number, dataset):
    """Submits, watches from several clients, and checks that each saw every event."""
    name = f"soak-{number}"
    daemon.cli("run", "sft", "--detach", "--name", name, "--model", "tiny", "--data", dataset, "--max-steps", 12,
               "--max-seq-length", 64, "--micro-batch-size", 2, "--rank", 4, "--base-quantization", "none",
               "--checkpoint-every", 5, timeout=600)
    watchers = [subprocess.Popen(daemon.cli_args("watch", name, "--json"), stdout=subprocess.PIPE, text=True)
                for _ in range(WATCHERS)]
    seen = [[harness.sequence(json.loads(line)) for line in w.communicate(timeout=600)[0].splitlines()]
            for w in watchers]
    state = daemon.job(name)["state"]
    assert state == "SUCCEEDED", f"{name} is {state}"
    assert all(s == list(range(1, len(s) + 1)) and s == seen[0] for s in seen), f"{name}: watchers saw {seen}"
    if number % 5 == 0:
        daemon.cli("pull", name, "--to", daemon.dir / "pulled", check=False)
        daemon.cli("ls")
    if number > KEPT:
        daemon.cli("rm", f"soak-{number - KEPT}", "--force")


def report(started, jobs, samples):
    elapsed = time.time() - started
    result = {"seconds": round(elapsed), "jobs": jobs, "events_watched_by": WATCHERS}
    for who, points in samples.items():
        later = [(t, b) for t, b in points if t > elapsed / 10]
        slope = slope_mb_per_hour(later)
        result[who] = {"samples": len(points), "first_mb": round(points[0][1] / 1e6, 1) if points else None,
                       "last_mb": round(points[-1][1] / 1e6, 1) if points else None,
                       "largest_mb": round(max(b for _, b in points) / 1e6, 1) if points else None,
                       "slope_mb_per_hour": None if slope is None else round(slope, 3)}
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out")
    parser.add_argument("--pause", type=float, default=1.0)
    parser.add_argument("--limit", type=float)
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    daemon = harness.Daemon(args.build_dir, models={"tiny": TINY})
    # Beside other work a worker may be slow to start; what is measured is memory.
    daemon.config.write_text(daemon.config.read_text().replace(
        "  device: cpu\n", "  device: cpu\n  cpu_threads: 1\n  start_timeout: 10m\n  heartbeat_timeout: 10m\n"))
    daemon.start()
    rows = daemon.dir / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"what is {i}?", "completion": f" {i} is a number"}) + "\n"
                            for i in range(20)))
    started, number, samples = time.time(), 0, {"daemon": [], "worker": []}
    while time.time() - started < args.seconds:
        number += 1
        one_job(daemon, number, rows)
        now = time.time() - started
        samples["daemon"].append((now, rss_bytes(daemon.process.pid)))
        samples["worker"] += [(now, rss_bytes(pid)) for pid in daemon.worker_pids()]
        if args.out:
            pathlib.Path(args.out).write_text(json.dumps(report(started, number, samples), indent=1) + "\n")
        time.sleep(args.pause)
    result = report(started, number, samples)
    print(json.dumps(result, indent=1))
    assert daemon.terminate(timeout=600) == 0
    slopes = [result[who]["slope_mb_per_hour"] for who in samples]
    return 1 if args.limit is not None and any(s is None or s > args.limit for s in slopes) else 0


if __name__ == "__main__":
    sys.exit(main())
