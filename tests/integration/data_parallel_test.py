"""Several processes train one job: the same losses and adapter as one process, a lost process and another number of them
after it included.

Usage: data_parallel_test.py BUILD_DIR [cpu|cuda]. "cuda" needs two GPUs.
"""

import json
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = pathlib.Path(sys.argv[1]) / "bin/finetune-worker"
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
COUNTS = (2, 3) if DEVICE == "cpu" else (2,)
BOUND = 1e-5 if DEVICE == "cpu" else 2e-4  # sums of GPUs are not in a fixed order
DIR = pathlib.Path(tempfile.mkdtemp(prefix="ftw-"))
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


def rows(method):
    for i in range(23):
        text = " ".join(WORDS[(i * k) % 10] for k in range(1, 3 + i % 7))
        if method == "sft":
            yield {"prompt": f"say {i}", "completion": " " + text}
        elif method == "dpo":
            yield {"prompt": f"say {i}", "chosen": " " + text, "rejected": " " + text[::-1]}
        else:
            yield {"prompt": f"say {i}", "completion": " " + text, "label": i % 3 != 0}


def write_job(method, **schedule):
    data = DIR / f"{method}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(method)))
    settings = {"micro_batch_size": 1, "gradient_accumulation_steps": 5, "max_seq_length": 64, "max_steps": 8, **schedule}
    job = {"spec": {
        "base_model": str(ROOT / "tests/golden/parity/untied"), "dataset": str(data), "eval_dataset": str(data), method: {},
        "lora": {"rank": 4, "dropout": 0.1 if method == "sft" else 0.0},
        "optimizer": {"kind": "adamw", "learning_rate": 5e-3},
        "schedule": settings, "evaluation": {"every_steps": 4}, "checkpoints": {"every_steps": 2},
        "quantization": {"base": "none"}, "compute": {"device": DEVICE, "dtype": "f32"}}}
    path = DIR / f"{method}-{'-'.join(map(str, schedule.values()))}.json"
    path.write_text(json.dumps(job))
    return path


def start(job, state, processes):
    return subprocess.Popen(
        [WORKER, "--spec", job, "--state", DIR / state, "--processes", str(processes), "--cpu-threads", "1"],
        stderr=open(DIR / f"{state}.log", "a"))


def run(job, state, processes, expect=0):
    code = start(job, state, processes).wait(180)
    assert code == expect, f"{state}: exit code {code}\n{(DIR / (state + '.log')).read_text()}"


def values(state, kind):
    """{step: values} of the events; a step done again after a loss counts once."""
    found = {}
    for line in open(DIR / state / "events.jsonl"):
        event = json.loads(line)
        if event["type"] == kind:
            found[event["step"]] = event
    return found


def adapter(state):
    raw = (DIR / state / "adapter/adapter_model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    return {name: struct.unpack(f"<{(t['data_offsets'][1] - t['data_offsets'][0]) // 4}f",
                                raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for name, t in header.items()}


def assert_equal_runs(one, other, bound):
    for kind in ("step", "eval"):
        expected, got = values(one, kind), values(other, kind)
        assert expected.keys() == got.keys(), (kind, expected.keys(), got.keys())
        for step, event in expected.items():
            for key, value in event["values"].items():
                if key in TIMES or key.startswith("memory"):
                    continue
                other_value = got[step]["values"][key]
                assert abs(other_value - value) <= bound * max(1, abs(value)), (one, other, kind, step, key, value, other_value)
    expected, got = adapter(one), adapter(other)
    worst = max(abs(a - b) for name in expected for a, b in zip(expected[name], got[name]))
    assert worst <= bound, f"{one} and {other}: adapters differ by {worst}"


TIMES = {"tokens_per_second", "step_time", "checkpoint_time", "eval_runtime"}


def check_equal():
    for method, counts in (("sft", COUNTS), ("dpo", (2,)), ("kto", (2,))):
        job = write_job(method)
        run(job, f"{method}-1", 1)
        for n in counts:
            run(job, f"{method}-{n}", n)
            assert_equal_runs(f"{method}-1", f"{method}-{n}", BOUND)


def check_lost_process():
    job = write_job("sft", max_steps=40)
    run(job, "calm", 1)
    launcher = start(job, "lost", 2)
    events = DIR / "lost/events.jsonl"
    deadline = time.time() + 60
    while not (events.exists() and events.read_text().count('"type":"step"') >= 5):
        assert time.time() < deadline and launcher.poll() is None, (DIR / "lost.log").read_text()
        time.sleep(0.01)
    children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(children) == 2, children
    subprocess.run(["kill", "-KILL", children[1]], check=True)
    assert launcher.wait(60) == 75, (DIR / "lost.log").read_text()
    # TERM: all leave after the same step, with a checkpoint.
    launcher = start(job, "lost", COUNTS[-1])
    seen = events.read_text().count('"type":"step"')
    while events.read_text().count('"type":"step"') < seen + 4:
        assert time.time() < deadline + 60 and launcher.poll() is None, (DIR / "lost.log").read_text()
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 75, (DIR / "lost.log").read_text()
    run(job, "lost", 1)
    assert_equal_runs("calm", "lost", 5 * BOUND)


def check_refusals():
    job = write_job("sft", gradient_accumulation_steps=1)
    run(job, "few", 2, expect=78)
    log = (DIR / "few.log").read_text()
    assert "gradient_accumulation_steps: is 1, which 2 processes cannot share; set it to 2" in log, log


def main():
    try:
        check_equal()
        check_lost_process()
        check_refusals()
    finally:
        shutil.rmtree(DIR, ignore_errors=True)
    print("ok")


if __name__ == "__main__":
    main()
