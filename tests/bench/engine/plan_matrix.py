"""Planned against measured memory over many settings.

plan_matrix.py run PLAN_MATRIX [SECONDS]   runs the program and prints one JSON line per setting
plan_matrix.py report LOG [SVG]            summary of such lines as Markdown tables, and a plot

Every setting has a cap as small cards have: the allocator may take the cap less what the plan sets aside for the
context. A length of 0 is the longest whose plan fits the cap, so the plan is tried at its edge.
"""

import collections
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time


def setting(documents, length, cap=24, checkpointing="off", **more):
    return dict(documents=documents, length=length, cap_gib=cap, checkpointing=checkpointing, **more)


def edge(caps, documents, recompute_caps=(), **more):
    """The longest rows that fit each cap, and with recompute those that fit each of the others."""
    return ([setting(documents, 0, cap, **more) for cap in caps] +
            [setting(documents, 0, cap, "on", **more) for cap in recompute_caps])


def dpo(documents, length, cap, checkpointing="off", **more):
    return setting(documents, length, cap, checkpointing, method="dpo", **more)


def kto(documents, length, cap, checkpointing="off", **more):
    return setting(documents, length, cap, checkpointing, method="kto", **more)


def grpo(documents, length, cap, checkpointing="off", **more):
    return setting(documents, length, cap, checkpointing, method="grpo", **{"accumulation": 2, **more})


# Shape, base format, number format of the products: settings.
MATRIX = [
    ("smollm2-135m", "nf4", "bf16", [
        dpo(4, 512, 8), dpo(8, 0, 12, evaluation=True), dpo(4, 0, 8, "on"), kto(8, 512, 8, evaluation=True),
        kto(8, 0, 16), kto(4, 0, 12, "keep:8:10"), grpo(16, 512, 8), grpo(32, 0, 24, completion=128),
        grpo(8, 1024, 8, "on", evaluation=True), grpo(8, 0, 12, accumulation=8, group=16),
        setting(8, 1024, 12, rank=64, optimizer="adamw", deterministic=True), setting(16, 0, 16, evaluation=True),
        setting(16, 0, 8, "on"), setting(1, 512, 8, rank=8), setting(16, 0, 24)]),
    ("llama-3.2-1b", "nf4", "bf16", [
        dpo(2, 1024, 12), setting(4, 0, 16, dropout=0.05), dpo(2, 0, 8, "on", evaluation=True), kto(4, 1024, 12),
        kto(4, 0, 24, deterministic=True), kto(8, 0, 8, "on", offload=True), grpo(8, 512, 12, evaluation=True),
        grpo(8, 0, 16, accumulation=4, completion=128), grpo(16, 0, 12, "on"), grpo(4, 256, 8, prompts=8, accumulation=16),
        setting(4, 2048, 24), setting(1, 0, 16, rank=64, deterministic=True), setting(8, 0, 8, "keep:4:8"),
        setting(4, 4096, 8, "on", offload=True), setting(8, 0, 12, targets=["q_proj", "v_proj"])]),
    ("llama-3.1-8b", "nf4", "bf16", [
        dpo(1, 512, 16), dpo(1, 0, 24, evaluation=True), dpo(2, 0, 12, "on"), dpo(1, 0, 8, "on", rank=8),
        kto(2, 512, 16), kto(2, 0, 24), kto(2, 0, 12, "on", evaluation=True), kto(4, 1024, 8, "on", offload=True),
        grpo(4, 512, 16), grpo(4, 0, 24, accumulation=4, completion=128), grpo(8, 0, 12, "on"),
        grpo(2, 512, 12, "on", accumulation=32, evaluation=True), setting(2, 1024, 24, deterministic=True),
        setting(4, 2048, 24, "keep:8:24"), setting(2, 0, 16, "keep:4:0"), setting(4, 2048, 16, "keep:0:32", offload=True),
        setting(1, 16384, 12, "on", offload=True), setting(1, 8192, 24, "keep:2:30:8192"),
        *edge((12, 16, 24), 2, (8, 12), optimizer="adamw")]),
    ("llama-3.1-8b", "nf4", "fp8", [
        setting(2, 1024, 24), setting(2, 0, 16), setting(2, 2048, 12, "on"), setting(4, 2048, 16, "keep:0:32"),
        dpo(1, 0, 24), grpo(4, 512, 16, "on"), setting(4, 2048, 8, "on", offload=True)]),
    ("llama-3.1-8b", "nf4", "int8", [setting(2, 0, 24), setting(2, 2048, 12, "on"), kto(2, 0, 16)]),
    ("llama-3.1-8b", "int8", "bf16", [setting(2, 0, 24), setting(2, 2048, 16, "on"), dpo(1, 512, 24), grpo(4, 512, 24, "on")]),
    ("llama-3.2-1b", "fp8", "bf16", [setting(4, 0, 12), kto(4, 1024, 12, "on", evaluation=True)]),
    ("llama-3.2-3b", "fp4", "bf16", [setting(2, 0, 16), dpo(2, 1024, 12, "on")]),
    ("llama-2-13b", "nf4", "bf16", [
        setting(1, 512, 16), setting(1, 0, 24), setting(1, 0, 12, "on"), dpo(1, 0, 16, "on"), kto(2, 0, 24),
        grpo(4, 0, 24, "on")]),
    ("qwen2.5-14b", "nf4", "bf16", [
        setting(1, 512, 24), setting(1, 0, 16, "on"), dpo(1, 512, 24, "on", optimizer="adamw"), kto(2, 0, 24, "on"),
        grpo(4, 512, 24, "on", completion=128), setting(1, 0, 24, "keep:10:20")]),
    ("llama-2-7b", "nf4", "bf16", [
        setting(2, 1024, 24, rank=32), setting(2, 1024, 8, "on"), setting(2, 0, 16), dpo(1, 1024, 16),
        grpo(4, 0, 16, "on")]),
    ("llama-3.1-8b", "none", "bf16", [setting(1, 512, 24, rank=8), dpo(1, 512, 24, "on"), grpo(2, 512, 24, "on", accumulation=4)]),
    ("llama-3.2-1b", "none", "bf16", [
        setting(4, 0, 12), dpo(2, 0, 16), kto(4, 0, 12, "on"), grpo(8, 0, 24), setting(4, 0, 24, rank=64)]),
    ("smollm2-135m", "none", "bf16", [
        setting(16, 0, 8), dpo(8, 0, 16), kto(8, 512, 8, "on"), grpo(16, 512, 12, completion=128)]),
    ("llama-3.2-3b", "nf4", "bf16", [setting(2, 0, 12), dpo(2, 0, 16), kto(2, 1024, 8, "on"), grpo(8, 512, 16)]),
]


def all_settings():
    return [dict(shape=shape, format=base, precision=precision, **s)
            for shape, base, precision, settings in MATRIX for s in settings]


def lines_of(stream):
    """The lines of a stream as they come, None at its end."""
    lines = queue.Queue()

    def read():
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def run(program, limit):
    """Prints what the program says; a setting that ends it is left out, and the next ones go to a new process."""
    end = time.time() + limit
    left = all_settings()
    while left and time.time() < end:
        with tempfile.TemporaryDirectory() as state:
            process = subprocess.Popen([program, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            said = lines_of(process.stdout)
            for s in left:
                process.stdin.write(json.dumps(s) + "\n")
            process.stdin.close()
            try:
                while (line := said.get(timeout=max(0.1, end - time.time()))) is not None:
                    print(line, end="", flush=True)
                    left = left[1:] if '"shape"' in line else left
                if left:
                    print(json.dumps(dict(left[0], error="the program ended")), flush=True)
                    left = left[1:]
            except queue.Empty:
                print(f"no time for {len(left)} settings", file=sys.stderr)
            process.kill()
            process.wait()


def used(row):
    """What the process held of the device at its peak."""
    return row["memory_device_used_bytes"]


def ran(row):
    """Within its cap and by the plan it was given."""
    exceeded = {"REPLANNED", "PLAN_EXCEEDED"} & set(row.get("warnings", {}))
    return "memory_device_used_bytes" in row and "error" not in row and not exceeded


def summary(rows):
    """Settings, used at most planned, above 1.03 x planned or out of memory; median, worst under, worst over."""
    over = sorted(r["planned"] / used(r) - 1 for r in rows if ran(r)) or [float("nan")]
    above = sum(used(r) > 1.03 * r["planned"] for r in rows if ran(r)) + sum(not ran(r) for r in rows)
    return [len(rows), sum(o >= 0 for o in over), above, statistics.median(over), over[0], over[-1]]


def names_of(row):
    """The groups that a setting counts in."""
    policy = {"off": "no recompute", "on": "recompute"}.get(row["checkpointing"], "recompute but for some layers")
    yield f"cap {row['cap_gib']:2} GiB"
    yield f"method {row.get('method', 'sft')}"
    yield f"model {row['shape']} {row['format']}"
    yield f"policy {policy}"
    if row["precision"] != "bf16":
        yield f"products in {row['precision']}"
    for name in ("offload", "deterministic", "evaluation"):
        if row.get(name):
            yield f"with {name}"
    if row.get("filled"):
        yield "longest rows that fit the cap"


def line(cells):
    print("| " + " | ".join(str(c) for c in cells) + " |")


def report(log, svg):
    rows = [r for text in open(log) if text.startswith("{") and "shape" in (r := json.loads(text))]
    measured = [r for r in rows if not r.get("skipped")]
    for r in measured:
        if not ran(r):
            print("ran out of memory:", json.dumps(r), file=sys.stderr)
    line(["settings", "number", "used at most planned", "above 1.03 x or out of memory", "median over", "worst under",
          "worst over"])
    line(["---"] * 7)
    groups = collections.defaultdict(list)
    for r in measured:
        for name in names_of(r):
            groups[name].append(r)
    for name, some in [*sorted(groups.items()), ("all", measured)]:
        n, within, above, median, low, high = summary(some)
        line([name, n, within, above, f"{median:.1%}", f"{-min(low, 0):.1%}", f"{max(high, 0):.1%}"])
    if svg:
        with open(svg, "w") as out:
            out.write(plot([r for r in measured if ran(r)]))


def plot(rows):
    """Used over planned against the plan, one dot per setting; the area above 1.00 is red, above 1.03 dark."""
    width, height, left, top = 640, 300, 60, 20
    x = lambda gb: left + gb / 26 * (width - left - 20)
    y = lambda ratio: top + (1.04 - ratio) / 0.16 * (height - top - 50)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
             'font-size="12">', '<rect width="100%" height="100%" fill="white"/>',
             f'<rect x="{left}" y="{y(1.04):.1f}" width="{width - left - 20}" height="{y(1) - y(1.04):.1f}" '
             'fill="#fbdcdc"/>']
    for ratio in (0.88, 0.92, 0.96, 1.0, 1.03):
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(ratio):.1f}" y2="{y(ratio):.1f}" stroke="#bbb"/>'
                     f'<text x="{left - 8}" y="{y(ratio) + 4:.1f}" text-anchor="end">{ratio:.2f}</text>')
    for gb in range(0, 26, 4):
        parts.append(f'<text x="{x(gb):.1f}" y="{height - 32}" text-anchor="middle">{gb}</text>')
    for r in rows:
        color = {"nf4": "#1f77b4", "none": "#ff7f0e"}.get(r["format"], "#2ca02c")
        ratio = used(r) / r["planned"]
        parts.append(f'<circle cx="{x(r["planned"] / 1e9):.1f}" cy="{y(ratio):.1f}" r="3.5" fill="{color}" '
                     'fill-opacity="0.7"/>')
    parts.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">planned, GB (blue: NF4 base, '
                 'orange: 16-bit base, green: others)</text>'
                 f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">'
                 'used / planned</text></svg>\n')
    return "\n".join(parts)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "run":
        run(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 1e9)
    elif len(sys.argv) > 2 and sys.argv[1] == "report":
        report(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        sys.exit(__doc__)
