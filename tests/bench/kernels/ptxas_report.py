#!/usr/bin/env python3
"""Compiles every CUDA file with the build's own command and prints what ptxas says: registers, spills and shared memory of
each kernel for each architecture. Exits 1 if a kernel spills or has more than 99 KiB of static shared memory.

ptxas_report.py BUILD_FOLDER [FILE...]      all kernels/*.cu, or those whose name contains FILE
"""
import json
import re
import shlex
import subprocess
import sys

LIMIT = 99 * 1024  # of sm_86


def commands(folder, wanted):
    with open(f"{folder}/compile_commands.json") as f:
        for entry in json.load(f):
            name = entry["file"].rsplit("/", 1)[-1]
            if name.endswith(".cu") and (not wanted or any(w in name for w in wanted)):
                words = [w for w in shlex.split(entry["command"]) if not w.endswith("ccache")]
                words[words.index("-o") + 1] = "/dev/null"
                yield name, words + ["-Xptxas", "-v"], entry["directory"]


def kernels(text):
    """Name, architecture, registers, bytes spilled, bytes of shared memory."""
    found = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
                       r".*?Used (\d+) registers([^\n]*)", text, re.S)
    names = subprocess.run(["c++filt"], input="\n".join(f[0] for f in found), capture_output=True, text=True).stdout
    for (_, arch, stores, loads, registers, rest), name in zip(found, names.splitlines()):
        shared = re.search(r"(\d+) bytes smem", rest)
        short = re.sub(r"\(anonymous namespace\)::|finetuned::kernels::|^void ", "", name).split("(")[0]
        yield short, arch, int(registers), int(stores) + int(loads), int(shared.group(1)) if shared else 0


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    bad = 0
    for name, words, directory in commands(sys.argv[1], sys.argv[2:]):
        run = subprocess.run(words, cwd=directory, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(run.stderr)
        for kernel, arch, registers, spilled, shared in kernels(run.stderr + run.stdout):
            wrong = spilled > 0 or shared > LIMIT
            bad += wrong
            print(json.dumps({"file": name, "kernel": kernel, "arch": arch, "registers": registers,
                              "spilled_bytes": spilled, "shared_bytes": shared} | ({"wrong": True} if wrong else {})))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
