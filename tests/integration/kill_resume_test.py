"""Submit, watch from two clients, kill the worker, kill the daemon, resume, finish: no event is lost or
doubled, and the losses are those of an undisturbed run.

Usage: kill_resume_test.py BUILD_DIR. Exit code 77: skipped, the model is not installed.
"""

import json
import os
import signal
import subprocess
import sys
import time

import harness

STEPS = 14
RUN = ["run", "sft", "--detach", "--model", "smollm2", "--data", harness.SAMPLES / "identity_train.jsonl",
       "--max-steps", STEPS, "--max-seq-length", 128, "--micro-batch-size", 2, "--rank", 4,
       "--checkpoint-every", 2, "--deterministic"]


def watch(daemon, job, path):
    out = open(path, "w")
    return subprocess.Popen(daemon.cli_args("watch", job, "--json"), stdout=out, stderr=subprocess.STDOUT)


def step(daemon, job):
    return int(daemon.job(job).get("progress", {}).get("step", 0))


def read(path):
    return [json.loads(line) for line in open(path)]


def main():
    if not harness.have_model():
        print("skipped: SmolLM2 is not in .deps/models (deploy/install_deps.sh --model)")
        return 77
    daemon = harness.Daemon(sys.argv[1]).start()
    daemon.cli(*RUN, "--name", "calm")
    daemon.wait("the undisturbed run", lambda: daemon.job("calm")["state"] == "SUCCEEDED", 300)
    expected = harness.losses(daemon.events("calm"))
    assert sorted(expected) == list(range(1, STEPS + 1)), expected

    daemon.cli(*RUN, "--name", "stormy")
    paths = [daemon.dir / "watch1.jsonl", daemon.dir / "watch2.jsonl"]
    watchers = [watch(daemon, "stormy", p) for p in paths]

    daemon.wait("step 5", lambda: step(daemon, "stormy") >= 5)
    for pid in daemon.worker_pids():
        os.kill(pid, signal.SIGKILL)
    daemon.wait("a second attempt", lambda: daemon.job("stormy").get("attempt", 0) >= 2)

    daemon.wait("step 9", lambda: step(daemon, "stormy") >= 9)
    daemon.kill()
    time.sleep(1)
    daemon.start()
    daemon.wait("the end", lambda: daemon.job("stormy")["state"] in ("SUCCEEDED", "FAILED"), 300)
    assert daemon.job("stormy")["state"] == "SUCCEEDED", daemon.job("stormy")

    stored = daemon.events("stormy")
    numbers = [harness.sequence(e) for e in stored]
    assert numbers == list(range(1, len(stored) + 1)), f"gaps or doubles in the log: {numbers}"
    for watcher, path in zip(watchers, paths):
        assert watcher.wait(60) == 0, open(path).read()[-2000:]
        seen = [harness.sequence(e) for e in read(path)]
        assert seen == numbers, f"{path} saw {seen}, stored {numbers}"
    assert daemon.job("stormy")["attempt"] >= 3
    assert harness.losses(stored) == expected, (harness.losses(stored), expected)

    files = []
    for job in ("calm", "stormy"):
        to = daemon.dir / f"adapter-{job}"
        daemon.cli("pull", job, "--to", to)
        files.append((to / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1], "the resumed run gave another adapter"
    assert daemon.terminate() == 0
    print(f"{len(stored)} events, seen whole by both watchers; adapters equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
