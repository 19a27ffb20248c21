"""The command line client against a real daemon: exit codes, completion in bash, colours, live views, output formats.

Usage: cli_test.py BUILD_DIR
"""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import harness

TINY = harness.ROOT / "tests/golden/parity/tied"  # a model of a few thousand parameters
CONFIG = f"model_roots: [{TINY.parent}]\n"


def write_rows(path, count):
    rows = [{"prompt": f"the number {i}", "completion": f" comes before {i + 1}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def code(daemon, *args):
    return daemon.cli(*args, check=False).returncode


def check_exit_codes(daemon, rows):
    run = ["run", "sft", "--model", TINY, "--data", rows, "--micro-batch-size", 2]
    assert code(daemon, *run, "--name", "good", "--max-steps", 3) == 0
    # 1: the daemon refuses, or a watched job did not succeed.
    missing = daemon.cli("get", "nothing", check=False)
    assert missing.returncode == 1 and "finetune ls" in missing.stderr, missing.stderr
    daemon.cli(*run, "--name", "long", "--max-steps", 100000, "--detach")
    daemon.cli("cancel", "long")
    assert code(daemon, "watch", "long") == 1
    # 2: usage and input, each with what to do.
    typo = daemon.cli("wtach", "good", check=False)
    assert typo.returncode == 2 and "did you mean: finetune watch" in typo.stderr, typo.stderr
    nonsense = daemon.cli("xyzzy", check=False)
    assert nonsense.returncode == 2 and "finetune --help" in nonsense.stderr, nonsense.stderr
    assert code(daemon, "ls", "--no-such-option") == 2
    assert code(daemon, "submit", "/no/such/file.yaml") == 2
    assert code(daemon, *run, "--rank", -1) == 2
    assert code(daemon, "ls", "--watch") == 2  # not a terminal
    # 3: nobody answers.
    lost = subprocess.run([daemon.cli_args()[0], "--server", "unix:///nowhere/d.sock", "ls"], capture_output=True,
                          text=True)
    assert lost.returncode == 3 and "start it with" in lost.stderr, lost.stderr
    # 130: Ctrl-C detaches, the job goes on.
    daemon.cli(*run, "--name", "watched", "--max-steps", 100000, "--detach")
    watch = subprocess.Popen(daemon.cli_args("watch", "watched"), stdout=subprocess.PIPE, text=True)
    watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    assert watch.wait(20) == 130
    assert daemon.job("watched")["state"] in ("QUEUED", "PREPARING", "RUNNING")
    daemon.cli("cancel", "watched")


def check_outputs(daemon):
    for args in (["ls"], ["info"], ["datasets"], ["adapters"], ["why", "good"], ["plot", "good"], ["get", "good"]):
        parsed = json.loads(daemon.cli(*args, "-o", "json").stdout)
        assert isinstance(parsed, dict), args
        assert ":" in daemon.cli(*args, "-o", "yaml").stdout, args
    assert "good" in daemon.cli("ls").stdout
    assert "━━ loss" in daemon.cli("plot", "good").stdout
    assert "loss" in daemon.cli("plot", "good", "--list").stdout.split()
    assert "RUNNING -> " in daemon.cli("logs", "good", "-o", "text", "--type", "state_changed").stdout
    assert all(json.loads(line)["metrics"] for line in
               daemon.cli("logs", "good", "--type", "metrics").stdout.splitlines())


def check_plans(daemon):
    """A model and a card that are not here, for every method, without a job file."""
    plans = {}
    for method in ("sft", "dpo", "kto", "grpo"):
        extra = ["--group-size", 16, "--max-completion-tokens", 256] if method == "grpo" else []
        done = daemon.cli("plan", "--shape", "llama-3.1-8b", "--vram", "24GB", "--method", method, "-o", "json", *extra)
        plans[method] = json.loads(done.stdout)
        assert plans[method]["admissible"], plans[method]
        assert method in plans[method]["resolved_spec"]
    assert plans["grpo"]["resolved_spec"]["grpo"]["group_size"] == 16
    assert int(plans["grpo"]["memory"]["kv_cache_bytes"]) > 0 and "kv_cache_bytes" not in plans["sft"]["memory"]
    assert code(daemon, "plan", "--shape", "llama-3.1-8b", "--vram", "24GB", "--method", "ppo") == 2
    assert "This job would be accepted." in daemon.cli("plan", "--shape", "llama-3.2-1b", "--vram", "8GB").stdout


def check_completion(daemon):
    """What TAB offers in bash, through the script the client prints."""
    script = ('source <("$0" completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; '
              'COMP_POINT=${#COMP_LINE}; _finetune; printf "%s\\n" "${COMPREPLY[@]}"')

    def offered(*words):
        done = subprocess.run(["bash", "-c", script, daemon.cli_args()[0], daemon.cli_args()[0], *words],
                              capture_output=True, text=True, timeout=20,
                              env={**os.environ, "FINETUNED_SERVER": f"unix://{daemon.socket}"})
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert offered("pau") == ["pause"]
    assert "good" in offered("watch", "")
    assert offered("ls", "--output", "y") == ["yaml"]
    assert offered("ls", "--output=y") == ["yaml"]
    assert "sft" in offered("run", "")
    assert "/etc/passwd" in offered("submit", "/etc/passw")
    assert offered("--server", "unix:///nowhere/d.sock", "watch", "") == []
    for shell in ("zsh", "fish"):
        assert "__complete" in daemon.cli("completion", shell).stdout


def in_terminal(daemon, args, keys=b"", environment=None, seconds=20):
    """Runs in a pseudo terminal, types `keys` after the first output; gives the exit code and all output."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm", **(environment or {})})
        command = daemon.cli_args(*args)
        os.execv(command[0], command)
    output, deadline = b"", time.time() + seconds
    while time.time() < deadline:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                piece = os.read(fd, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            output += piece
        if keys and output:
            time.sleep(0.3)
            os.write(fd, keys)
            keys = b""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode(errors="replace")


def check_terminal(daemon):
    _, colored = in_terminal(daemon, ["ls"])
    assert "\033[32mSUCCEEDED" in colored, colored
    _, plain = in_terminal(daemon, ["ls"], environment={"NO_COLOR": "1"})
    assert "SUCCEEDED" in plain and "\033[3" not in plain, plain
    assert "\033" not in daemon.cli("ls").stdout + daemon.cli("top").stdout + daemon.cli("plot", "good").stdout
    for args, shown in ((["top"], "good"), (["ls", "--watch"], "good"), (["plot", "good", "--watch"], " loss ")):
        status, screen = in_terminal(daemon, args, keys=b"q")
        assert status == 0 and "\033[?1049l" in screen and shown in screen, (args, status, screen)
        status, _ = in_terminal(daemon, args, keys=b"\x03")
        assert status == 130, (args, status)


def main():
    daemon = harness.Daemon(sys.argv[1], CONFIG).start()
    rows = daemon.dir / "rows.jsonl"
    write_rows(rows, 12)
    check_exit_codes(daemon, rows)
    check_outputs(daemon)
    check_plans(daemon)
    check_completion(daemon)
    check_terminal(daemon)
    daemon.wait("the cancelled job", lambda: daemon.job("watched")["state"] == "CANCELLED")
    assert daemon.terminate() == 0
    print("exit codes, formats, completion, colours and live views are as documented")
    return 0


if __name__ == "__main__":
    sys.exit(main())
