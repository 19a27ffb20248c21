"""A real Prometheus scrapes a real daemon that trains: the text is clean, /metrics answers while the worker is
stopped, and every query of the dashboard names a family the daemon has and gets data.

Usage: monitoring_test.py BUILD_DIR [--picture FILE]. Exit code 77: skipped, something is not installed.
--picture draws the dashboard's panels from what was scraped (needs matplotlib); without it the GPU is the
fake one of the unit tests.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import harness

sys.path.insert(0, str(harness.ROOT / "deploy/grafana"))
import make_dashboard  # noqa: E402

TOOLS = harness.ROOT / ".deps/prometheus/usr/bin"
# What a short SFT run that goes well does not have.
NO_DATA = {"XID errors", "Refused submissions", "Reward margin", "Pairs in the right order", "Mean reward",
           "Groups without spread", "First token of a sample, median", "KL to the reference, entropy",
           "Generated tokens per second", "Cut completions"}
NO_DATA_QUERIES = {"finetuned_gpu_memory_budget_bytes", "finetuned_gpu_memory_allocator_bytes"}


def tool(name):
    return shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url, timeout=10):
    return urllib.request.urlopen(url, timeout=timeout).read().decode()


class Prometheus:
    """The shipped configuration with another target and a shorter interval."""

    def __init__(self, directory, target):
        config = (harness.ROOT / "deploy/prometheus/prometheus.yml").read_text()
        assert "127.0.0.1:9464" in config and "scrape_interval: 5s" in config
        config = config.replace("127.0.0.1:9464", target).replace("scrape_interval: 5s", "scrape_interval: 1s")
        (directory / "prometheus.yml").write_text(config.replace("interval: 15s", "interval: 1s"))
        shutil.copy(harness.ROOT / "deploy/prometheus/alert_rules.yml", directory)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [tool("prometheus"), f"--config.file={directory}/prometheus.yml",
             f"--storage.tsdb.path={directory}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=open(directory / "prometheus.log", "w"), stderr=subprocess.STDOUT)

    def query(self, expr):
        url = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        return json.loads(get(url))["data"]["result"]

    def ready(self):
        try:
            return bool(self.query("up == 1"))
        except OSError:
            return False


def families():
    """What the daemon can show; /metrics leaves out families that have no series yet."""
    sources = (harness.ROOT / "server/metrics").glob("*.cc")
    return {name for source in sources for name in re.findall(r'"(finetuned_\w+)"', source.read_text())}


def check_names(known):
    """Queries use no family that the daemon lacks."""
    for row, panels in make_dashboard.ROWS.items():
        for title, _, queries in panels:
            for expr, _ in queries:
                for name in re.findall(r"finetuned_\w+", expr):
                    base = re.sub(r"_(bucket|sum|count)$", "", name)
                    assert name in known or base in known, f"{row}/{title}: the daemon has no {name}"


def panels_without_data(prometheus):
    """Title -> queries that gave nothing over the run, of those that should have given something."""
    empty = {}
    for panels in make_dashboard.ROWS.values():
        for title, _, queries in panels:
            for expr, _ in queries:
                if title in NO_DATA or expr in NO_DATA_QUERIES:
                    continue
                if not prometheus.query(f"last_over_time(({expr})[5m:1s])"):
                    empty.setdefault(title, []).append(expr)
    return empty


def job_flags(picture):
    """A short run of SmolLM2; for a picture a longer one, with a rate at which the loss falls within it."""
    train, held_out = harness.SAMPLES / "identity_train.jsonl", harness.SAMPLES / "identity_eval.jsonl"
    every, steps, rate = ((10, 10), 60, 2e-3) if picture else ((10, 5), 12, 2e-4)
    return ["run", "sft", "--detach", "--rank", 4, "--micro-batch-size", 2, "--model", "smollm2", "--max-seq-length", 128,
            "--data", train, "--eval", held_out, "--eval-every", every[0], "--checkpoint-every", every[1],
            "--lr", rate], steps


def run(build_dir, picture):
    daemon = harness.Daemon(build_dir, models={"smollm2": harness.MODEL}).start()
    port = int(re.search(r"metrics on port (\d+)", daemon.log()).group(1))
    metrics_url = f"http://127.0.0.1:{port}/metrics"
    prometheus = Prometheus(daemon.dir, f"127.0.0.1:{port}")
    try:
        daemon.wait("the first scrape", prometheus.ready, 60)
        common, steps = job_flags(picture)
        daemon.cli(*common, "--name", "first", "--max-steps", steps)
        daemon.cli(*common, "--name", "second", "--max-steps", 2)
        watcher = subprocess.Popen(daemon.cli_args("watch", "first", "--json"), stdout=subprocess.DEVNULL)
        daemon.wait("steps of the job", lambda: int(daemon.job("first").get("progress", {}).get("step", 0)) >= 6)

        worker = daemon.worker_pids()[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            text = get(metrics_url)
            time.sleep(3)  # scrapes go on while the worker hangs
            assert prometheus.query("min_over_time(up[3s]) == 1"), "a scrape failed while the worker hung"
        finally:
            os.kill(worker, signal.SIGCONT)
        assert "finetuned_train_loss{" in text
        lint = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
        assert lint.returncode == 0, f"promtool check metrics:\n{lint.stdout}{lint.stderr}"

        daemon.wait("the end", lambda: daemon.job("second")["state"] == "SUCCEEDED", 3600 if picture else 400)
        watcher.wait(60)
        time.sleep(3)
        check_names(families())
        empty = panels_without_data(prometheus)
        if picture:
            empty = {t: e for t, e in empty.items() if not all("finetuned_gpu" in x for x in e)}
        assert not empty, f"panels without data: {empty}"
        groups = json.loads(get(f"{prometheus.url}/api/v1/rules"))["data"]["groups"]
        bad = [r["name"] for g in groups for r in g["rules"] if r["health"] != "ok"]
        assert groups and not bad, f"rules that do not evaluate: {bad}"
        if picture:
            import render
            render.draw(prometheus.url, picture)
        print("clean text, rules evaluate, every panel has data")
    finally:
        prometheus.process.terminate()
        prometheus.process.wait()
    assert daemon.terminate() == 0


def main():
    if not harness.have_model():
        print("skipped: SmolLM2 is not in .deps/models (deploy/install_deps.sh --model)")
        return 77
    if not tool("prometheus") or not tool("promtool"):
        print("skipped: Prometheus is not installed (deploy/install_deps.sh --oracles)")
        return 77
    picture = sys.argv[3] if sys.argv[2:3] == ["--picture"] else None
    if not picture:
        fake = pathlib.Path(sys.argv[1]).resolve() / "fake_nvml"
        assert (fake / "libnvidia-ml.so.1").exists(), "build the target ft_fake_nvml"
        os.environ["LD_LIBRARY_PATH"] = str(fake)
    run(sys.argv[1], picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
