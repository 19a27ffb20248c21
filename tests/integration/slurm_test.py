"""Jobs through the Slurm backend, against the Slurm of fake_slurm/: run, wait in its queue, pause, cancel, a job that Slurm
kills, a daemon that dies while Slurm goes on. With --real against the Slurm of this machine (sbatch in PATH).

Usage: slurm_test.py BUILD_DIR [--real].
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import harness

REAL = "--real" in sys.argv
FAKE = pathlib.Path(tempfile.mkdtemp(prefix="fts-"))
STEPS, LONG = 40, 600
ROWS = [{"prompt": f"say {i}", "completion": " " + "ab" * (1 + i % 5)} for i in range(20)]


def environment():
    os.environ["OMP_NUM_THREADS"] = "1"
    if not REAL:
        os.environ["FAKE_SLURM_DIR"] = str(FAKE)
        os.environ["PATH"] = f"{pathlib.Path(__file__).resolve().parent / 'fake_slurm'}:{os.environ['PATH']}"


def submissions():
    return len((FAKE / "calls").read_text().splitlines()) if (FAKE / "calls").exists() else 0


def run(daemon, name, steps=STEPS):
    rows = daemon.dir / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    daemon.cli("run", "sft", "--detach", "--model", "tiny", "--data", rows, "--max-steps", steps, "--max-seq-length", 64,
               "--micro-batch-size", 2, "--rank", 4, "--checkpoint-every", 5, "--deterministic", "--name", name)


def state(daemon, name):
    return daemon.job(name)["state"]


def step(daemon, name):
    return int(daemon.job(name).get("progress", {}).get("step", 0))


def finish(daemon, name):
    daemon.wait(f"the end of {name}", lambda: state(daemon, name) in ("SUCCEEDED", "FAILED", "CANCELLED"))
    job = daemon.job(name)
    assert job["state"] == "SUCCEEDED", job
    return job


def slurm_number(daemon, name):
    uid = daemon.job(name)["uid"]
    return json.loads((daemon.dir / "state/jobs" / uid / "slurm.json").read_text())["id"]


def main():
    environment()
    script = harness.ROOT / "deploy/slurm/finetune.sbatch"
    options = '["--gpus-per-task=0", "--cpus-per-task=1"]' if REAL else '["--partition=gpu"]'
    daemon = harness.Daemon(sys.argv[1], f"slurm:\n  script: {script}\n  arguments: {options}\n  poll_interval: 100ms\n",
                            {"tiny": harness.ROOT / "tests/golden/parity/untied"}, "backend: slurm").start()

    run(daemon, "calm")
    finish(daemon, "calm")
    expected = harness.losses(daemon.events("calm"))
    assert sorted(expected) == list(range(1, STEPS + 1)), expected
    daemon.cli("pull", "calm", "--to", daemon.dir / "adapter")
    assert (daemon.dir / "adapter/adapter_model.safetensors").exists()

    if not REAL:  # a full cluster
        (FAKE / "pending").write_text("")
        run(daemon, "patient", 5)
        daemon.wait("the reason for the wait",
                    lambda: daemon.job("patient").get("progress", {}).get("phase") == "waiting in Slurm: Resources")
        (FAKE / "pending").unlink()
        finish(daemon, "patient")

    # The daemon dies; Slurm and the job do not notice. The next daemon reads on.
    run(daemon, "orphan", LONG)
    daemon.wait("a few steps", lambda: step(daemon, "orphan") >= 3)
    number, before = slurm_number(daemon, "orphan"), submissions()
    daemon.kill()
    daemon.start()
    finish(daemon, "orphan")
    assert submissions() == before, "the job was submitted again"
    losses = harness.losses(daemon.events("orphan"))
    assert sorted(losses) == list(range(1, LONG + 1))

    # Pause takes a checkpoint and leaves Slurm, resume comes back; then Slurm kills it; the result is the same.
    run(daemon, "stormy", LONG)
    daemon.wait("a few steps", lambda: step(daemon, "stormy") >= 3)
    daemon.cli("pause", "stormy")
    daemon.wait("the pause", lambda: state(daemon, "stormy") == "PAUSED")
    paused = step(daemon, "stormy")
    daemon.cli("resume", "stormy")
    daemon.wait("more steps", lambda: step(daemon, "stormy") > paused + 3)
    subprocess.run(["scancel", slurm_number(daemon, "stormy")], check=True)
    daemon.wait("another attempt", lambda: int(daemon.job("stormy").get("attempt", 0)) >= 3)
    finish(daemon, "stormy")
    assert harness.losses(daemon.events("stormy")) == losses, "another course than undisturbed"

    run(daemon, "unwanted", 100 * STEPS)
    daemon.wait("a few steps", lambda: step(daemon, "unwanted") >= 3)
    daemon.cli("cancel", "unwanted")
    daemon.wait("the end", lambda: state(daemon, "unwanted") == "CANCELLED")

    answer = daemon.cli("sample", "calm", "hello", "--raw", check=False)
    assert answer.returncode != 0 and "runs jobs in Slurm" in answer.stderr, answer
    print("ok, Slurm job", number, "was followed by two daemons")


if __name__ == "__main__":
    main()
