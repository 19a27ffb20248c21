"""Planned against measured memory over many settings: plan_matrix.py STEP_BENCH [SECONDS]

Runs step_bench for each setting under a cap of 24 GiB where the plan fits it (the budget of a 24 GB card), else
without one, prints one JSON line each and a summary. Stops starting new ones after SECONDS.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time

BATCHES = {
    "smollm2-135m": [(1, 512), (4, 512), (8, 1024), (16, 1024), (2, 4096)],
    "llama-3.2-1b": [(1, 1024), (4, 1024), (4, 2048), (1, 8192)],
    "llama-2-7b": [(1, 512), (2, 1024), (4, 1024)],
    "llama-3.1-8b": [(1, 1024), (2, 2048)],
    "llama-2-13b": [(1, 512), (1, 2048)],
}
GIB = 1 << 30


def settings():
    """Interleaved, so that a run cut short has seen every shape."""
    rows = []
    for shape, batches in BATCHES.items():
        small = shape in ("smollm2-135m", "llama-3.2-1b")
        ranks = (8, 64) if small else (16,)
        formats = ("nf4", "bf16") if shape == "smollm2-135m" else ("nf4",)
        found = itertools.product(batches, ranks, formats, (False, True))
        rows.append([(shape, d, l, r, f, c) for (d, l), r, f, c in found])
    return [row for group in itertools.zip_longest(*rows) for row in group if row]


def run(bench, row, cap):
    shape, documents, length, rank, fmt, checkpointing = row
    command = [bench, "--shape", shape, "--documents", documents, "--length", length, "--rank", rank, "--format", fmt,
               "--steps", 1, "--cap-gib", cap] + (["--checkpointing"] if checkpointing else [])
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        return {"setting": row, "error": done.stderr.strip().splitlines()[0][:200] if done.stderr else "no message"}
    result = json.loads(done.stdout)
    ratio = result["predicted_bytes"] / result["memory_device_used_bytes"]
    return {"setting": row, "cap_gib": cap, "planned": result["predicted_bytes"], "ratio": ratio,
            "used": result["memory_device_used_bytes"], "allocated": result["memory_peak_bytes"]}


def main():
    bench, limit = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1e9
    start, ratios = time.time(), []
    for row in settings():
        if time.time() - start > limit:
            break
        result = run(bench, row, 24)
        if "error" in result:
            capped = result["error"]
            result = run(bench, row, 79)
            result["under_24_gib"] = capped
        print(json.dumps(result), flush=True)
        if "ratio" in result:
            ratios.append(result["ratio"])
    if not ratios:
        sys.exit("nothing was measured")
    over = sorted(r - 1 for r in ratios)
    print(json.dumps({
        "settings": len(ratios), "used_at_most_planned": sum(r >= 1 for r in ratios) / len(ratios),
        "used_above_1.03_planned": sum(1 / r > 1.03 for r in ratios), "worst_underestimate": min(ratios) - 1,
        "median_overestimate": statistics.median(over), "worst_overestimate": max(over)}))


if __name__ == "__main__":
    main()
