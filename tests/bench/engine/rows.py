#!/usr/bin/env python3
"""Runs step_bench for each row of the table in docs/performance.md and prints a JSON line a row.

rows.py STEP_BENCH [ROW...]      all rows, or those named
"""
import json
import subprocess
import sys

# Arguments, and the figure with its goal: ("tokens_per_second", ">=", N), ("step_ms", "<=", N),
# ("memory_peak_bytes", "<=", N).
GIB = 1 << 30
ROWS = {
    "2x1024": ("--documents 2 --length 1024 --standing 32", ("tokens_per_second", ">=", 16000)),
    "4x2048": ("--documents 4 --length 2048 --standing 32", ("tokens_per_second", ">=", 17000)),
    "4x2048 fp8": ("--documents 4 --length 2048 --precision fp8 --standing 32", ("tokens_per_second", ">=", 21000)),
    "4x2048 in 7.9 GiB": ("--documents 4 --length 2048 --checkpointing --offload --pieces 4096 --keep-attention 6 --cap-gib 7.9",
                          ("tokens_per_second", ">=", 12500)),
    "4x2048 in 7.9 GiB, fp8": ("--documents 4 --length 2048 --checkpointing --offload --precision fp8 --cap-gib 7.9",
                               ("tokens_per_second", ">=", 12500)),
    "2x2048 smallest": ("--documents 2 --length 2048 --checkpointing --offload --nf4-head",
                        ("memory_peak_bytes", "<=", 5.5 * GIB)),
    "1x163840 in 24 GiB": ("--documents 1 --length 163840 --checkpointing --offload --cap-gib 24 --steps 0",
                           ("memory_peak_bytes", "<=", 24 * GIB)),
    "1x32768": ("--documents 1 --length 32768 --checkpointing --keep-attention 32 --steps 1",
                ("tokens_per_second", ">=", 9000)),
    "1x32768 fp8": ("--documents 1 --length 32768 --checkpointing --keep-attention 24 --keep-all 8 --pieces 32768 "
                    "--precision fp8 --steps 1",
                    ("tokens_per_second", ">=", 9000)),
    "135M 4x512": ("--shape smollm2-135m --documents 4 --length 512 --steps 20", ("step_ms", "<=", 20)),
    "135M 32x1024": ("--shape smollm2-135m --documents 32 --length 1024", ("tokens_per_second", ">=", 400000)),
}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    unknown = [name for name in sys.argv[2:] if name not in ROWS]
    if unknown:
        sys.exit(f"unknown row {unknown[0]}; rows: {', '.join(ROWS)}")
    for name in sys.argv[2:] or ROWS:
        arguments, (figure, relation, goal) = ROWS[name]
        run = subprocess.run([sys.argv[1], *arguments.split()], capture_output=True, text=True)
        row = {"row": name, "arguments": arguments, "figure": figure, "goal": goal}
        if run.returncode != 0:
            row["error"] = run.stderr.strip().splitlines()[-1:] or f"exit {run.returncode}"
        else:
            result = json.loads(run.stdout.splitlines()[-1])
            row["reached"] = result[figure] >= goal if relation == ">=" else result[figure] <= goal
            row |= {key: result[key] for key in ("tokens_per_second", "step_ms", "memory_peak_bytes",
                                                 "memory_device_used_bytes", "host_bytes", "share_of_products")
                    if key in result}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
