"""Generation through daemon, worker and command line: adapter, base, comparison, cancellation, refusal. A tiny model with
random weights; no download needed. Usage: sample_test.py BUILD_DIR"""

import json
import signal
import subprocess
import sys
import time

from harness import ROOT, Daemon

MODEL = ROOT / "tests/golden/parity/untied"


def pieces(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def tokens(done, index=0):
    return [t for p in pieces(done) if p.get("index", 0) == index for t in p.get("tokens", [])]


def train(daemon):
    rows = daemon.dir / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i} + {i} = ", "completion": str(2 * i)}) + "\n" for i in range(8)))
    done = daemon.cli("run", "sft", "--model", "tiny", "--data", rows, "--max-steps", "2", "--name", "tiny-job",
                      "--max-seq-length", "64",
                      timeout=300)
    assert done.returncode == 0, done.stderr


def check_answers(daemon):
    raw = ["--raw", "--json", "--max-tokens", "12"]
    first = daemon.cli("sample", "models/tiny", "abc", *raw, "--seed", "5", "-n", "2", timeout=300)
    again = daemon.cli("sample", "models/tiny", "abc", *raw, "--seed", "5", "-n", "2")
    other = daemon.cli("sample", "models/tiny", "abc", *raw, "--seed", "6", "-n", "2")
    for index in (0, 1):
        assert tokens(first, index) == tokens(again, index) and 0 < len(tokens(first, index)) <= 12
    assert tokens(first, 0) != tokens(first, 1)
    assert tokens(first) != tokens(other)
    last = [p for p in pieces(first) if p.get("finish_reason")]
    assert len(last) == 2 and all(p["prompt_tokens"] == 3 and p["tokens_per_second"] > 0 for p in last), last
    assert all(len(p.get("tokens", [])) == len(p.get("logprobs", [])) for p in pieces(first))

    whole = daemon.cli("sample", "tiny-job", "abc", *raw, "--temperature", "0")
    text = "".join(p.get("text", "") for p in pieces(whole))
    stop = next((c for c in text[1:] if c.isascii() and c.isprintable() and c != "-"), None)
    if stop is not None:  # the model is random: its text may be anything
        cut = daemon.cli("sample", "tiny-job", "abc", *raw, "--temperature", "0", "--stop", stop)
        assert "".join(p.get("text", "") for p in pieces(cut)) == text[:text.index(stop)]
        assert pieces(cut)[-1]["finish_reason"] == "stop"

    both = daemon.cli("sample", "tiny-job", "abc", "--raw", "--max-tokens", "5", "--compare", "base")
    assert "tiny-job" in both.stdout and "models/tiny" in both.stdout, both.stdout


def check_refusals(daemon):
    bad = daemon.cli("sample", "models/tiny", "abc", "--raw", "--top-p", "2", check=False)
    assert bad.returncode == 2 and "top_p" in bad.stderr, (bad.returncode, bad.stderr)
    chat = daemon.cli("sample", "models/tiny", "abc", check=False)
    assert chat.returncode == 2 and "raw" in chat.stderr, (chat.returncode, chat.stderr)
    long = daemon.cli("sample", "models/tiny", "x" * 600, "--raw", check=False)
    assert long.returncode == 2 and "600 tokens" in long.stderr, (long.returncode, long.stderr)


def check_interruption(daemon):
    """A client that leaves frees the worker at once."""
    process = subprocess.Popen(
        daemon.cli_args("sample", "models/tiny", "abc", "--raw", "--json", "--max-tokens", "500", "-n", "64"),
        stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.wait(10)
    begin = time.time()
    daemon.cli("sample", "models/tiny", "abc", "--raw", "--max-tokens", "1", timeout=60)
    assert time.time() - begin < 30


def main():
    daemon = Daemon(sys.argv[1], models={"tiny": MODEL}).start()
    train(daemon)
    check_answers(daemon)
    check_refusals(daemon)
    check_interruption(daemon)
    assert daemon.terminate() == 0, daemon.log()
    print("sampling works")


if __name__ == "__main__":
    main()
