#!/usr/bin/env python3
"""A Slurm of one machine, as far as the daemon needs it: sbatch, squeue, scancel, sacct, scontrol and srun, by the name it
is called by. State lies in FAKE_SLURM_DIR: NUMBER.pid (of the batch shell's session), NUMBER.end, pending (jobs wait)."""

import os
import pathlib
import signal
import subprocess
import sys

DIR = pathlib.Path(os.environ["FAKE_SLURM_DIR"])
NAME, ARGS = pathlib.Path(sys.argv[0]).name, sys.argv[1:]


def option(name, default=""):
    for i, a in enumerate(ARGS):
        if a.startswith(name + "="):
            return a[len(name) + 1:]
        if a == name:
            return ARGS[i + 1]
    return default


def sbatch():
    (DIR / "calls").open("a").write(" ".join(ARGS) + "\n")
    if (DIR / "down").exists():
        sys.exit("sbatch: error: Batch job submission failed: Unable to contact slurm controller")
    number = str(len(list(DIR.glob("*.job"))) + 100)
    script = [a for a in ARGS if not a.startswith("--")]
    (DIR / f"{number}.job").write_text("")
    runner = ("import os, subprocess, sys, time\n"
              "d, n, out = sys.argv[1:4]\n"
              "while os.path.exists(d + '/pending'): time.sleep(0.05)\n"
              "code = subprocess.run(['bash'] + sys.argv[4:], stdout=open(out, 'a'), stderr=subprocess.STDOUT).returncode\n"
              "open(d + '/' + n + '.end', 'w').write(str(code))\n")
    env = dict(os.environ, SLURM_JOB_ID=number, SLURM_JOB_NODELIST="localhost", SLURM_NNODES="1")
    for item in option("--export").split(","):
        if "=" in item:
            env.__setitem__(*item.split("=", 1))
    child = subprocess.Popen([sys.executable, "-c", runner, str(DIR), number, option("--output", "/dev/null")] + script,
                             start_new_session=True, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    (DIR / f"{number}.pid").write_text(str(child.pid))
    print(number)


def alive(number):
    return not (DIR / f"{number}.end").exists()


def squeue():
    number = option("--jobs")
    if not (DIR / f"{number}.job").exists():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    if alive(number):
        print("PENDING|Resources" if (DIR / "pending").exists() else "RUNNING|None")


def processes(session):
    """Of a session, but the batch shell and what runs it."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[3]) == session and command[0].endswith(b"finetune-worker"):
            yield int(stat.parent.name)


def scancel():
    number = ARGS[-1]
    session = int((DIR / f"{number}.pid").read_text())
    kind = option("--signal", "KILL")
    if kind == "KILL":
        (DIR / f"{number}.end").write_text("0:9")
        os.killpg(session, signal.SIGKILL)
        return
    for pid in processes(session):
        os.kill(pid, getattr(signal, "SIG" + kind))


def sacct():
    end = DIR / f"{option('--jobs')}.end"
    print(f"FAILED|{end.read_text()}")


def scontrol():
    if ARGS[:2] == ["show", "hostnames"]:
        print("localhost")


def srun():
    command = [a for a in ARGS if not a.startswith("--kill-on-bad-exit")]
    os.execvp(command[0], command)


globals()[NAME]()
