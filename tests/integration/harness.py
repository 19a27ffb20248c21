"""Starts a real daemon in a temporary directory and drives it with the command line client."""

import atexit
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLES = ROOT / "deploy/samples"


class Daemon:
    """One daemon with its own state directory, which a second start() finds again. `models`: name -> path."""

    def __init__(self, build_dir, config_extra="", models=None, worker="device: cpu"):
        self.bin = pathlib.Path(build_dir) / "bin"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ftd-"))
        self.socket = self.dir / "d.sock"
        self.config = self.dir / "config.yaml"
        self.config.write_text(
            f"state_dir: {self.dir}/state\n"
            f"socket:\n  path: {self.socket}\n"
            "models:\n" + "".join(f"  {k}: {v}\n" for k, v in (models or {"smollm2": MODEL}).items()) +
            f"worker:\n  {worker}\n"
            f"metrics:\n  address: 127.0.0.1:0\n" + config_extra
        )
        self.process = None
        atexit.register(self.clean)

    def clean(self):
        """Nothing stays behind, also when a test fails."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self):
        log = open(self.dir / "daemon.log", "a")
        self.process = subprocess.Popen(
            [str(self.bin / "finetuned"), "--config", str(self.config)],
            stdout=log, stderr=log, start_new_session=True)
        deadline = time.time() + 20
        while time.time() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("the daemon ended at once:\n" + self.log())
            if self.cli("info", check=False).returncode == 0:
                return self
            time.sleep(0.1)
        raise RuntimeError("the daemon does not answer:\n" + self.log())

    def log(self):
        return (self.dir / "daemon.log").read_text()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, timeout=60):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def cli_args(self, *args):
        return [str(self.bin / "finetune"), "--server", f"unix://{self.socket}", *map(str, args)]

    def cli(self, *args, check=True, timeout=120):
        done = subprocess.run(self.cli_args(*args), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise RuntimeError(f"finetune {' '.join(map(str, args))} gave {done.returncode}:\n"
                               f"{done.stdout}{done.stderr}\n{self.log()}")
        return done

    def job(self, job_id):
        return json.loads(self.cli("get", job_id, "-o", "json").stdout)

    def events(self, job_id):
        return [json.loads(line) for line in self.cli("logs", job_id).stdout.splitlines()]

    def wait(self, what, predicate, timeout=180):
        deadline = time.time() + timeout
        while time.time() < deadline:
            if predicate():
                return
            time.sleep(0.2)
        raise AssertionError(f"timed out waiting for {what}\n{self.log()}")

    def worker_pids(self):
        """Direct children of the daemon that are workers."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if int(stat[1]) == self.process.pid and name.startswith(("finetune-worke", "fake_worker")):
                pids.append(int(entry.name))
        return pids


def sequence(event):
    return int(event["sequence"])


def losses(events):
    """Step -> loss; a step run again by a later attempt counts once, with its last value."""
    return {int(e["metrics"]["step"]): e["metrics"]["values"]["loss"] for e in events if "metrics" in e}


def have_model():
    return MODEL.exists() and os.path.getsize(MODEL) > 0
