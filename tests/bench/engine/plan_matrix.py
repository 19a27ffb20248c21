"""Planned against measured memory over many settings.

plan_matrix.py run PLAN_MATRIX [SECONDS]   runs the program once per model and prints one JSON line per setting
plan_matrix.py report LOG [SVG]            summary of such lines as a Markdown table, and a plot

Every setting has a cap as small cards have: the allocator may take the cap less what the plan sets aside for context
and rounding. A length of 0 is the longest whose plan fits the cap, so the plan is tried at its edge.
"""

import collections
import json
import statistics
import subprocess
import sys
import time


def setting(documents, length, cap=24, rank=16, checkpointing=False, **more):
    return dict(documents=documents, length=length, cap_gib=cap, rank=rank, checkpointing=checkpointing, **more)


def edge(caps, documents, recompute_caps=(), **more):
    """The longest rows that fit each cap, and with recompute those that fit each of the others."""
    return ([setting(documents, 0, cap, **more) for cap in caps] +
            [setting(documents, 0, cap, checkpointing=True, **more) for cap in recompute_caps])


MODELS = {
    ("llama-3.1-8b", "nf4"): [
        setting(1, 1024, 16), setting(2, 2048, 12, checkpointing=True), setting(1, 512, 12, rank=64),
        *edge((12, 16, 24), 2, (8, 12, 16))],
    ("llama-2-7b", "nf4"): [
        setting(2, 1024, 24, rank=32), setting(2, 1024, 8, checkpointing=True), setting(1, 512, 12),
        setting(4, 1024, 12, rank=64, checkpointing=True, optimizer="adamw"), *edge((12, 16, 24), 2, (8, 12))],
    ("llama-2-13b", "nf4"): [
        setting(1, 512, 16), setting(1, 512, 12, checkpointing=True), setting(1, 1024, 24, rank=8),
        *edge((16, 24), 1, (12, 16))],
    ("qwen2.5-14b", "nf4"): [
        setting(1, 512, 24), setting(1, 1024, 16, checkpointing=True, optimizer="adamw"), *edge((24,), 1, (16, 24))],
    ("llama-3.2-1b", "nf4"): [
        setting(4, 2048, 24), setting(4, 2048, 8, checkpointing=True), setting(1, 8192, 16, rank=64),
        setting(1, 1024, 8, rank=8, optimizer="adamw"), *edge((8, 12, 16, 24), 8, (8, 12))],
    ("smollm2-135m", "nf4"): [
        setting(1, 512, 8, rank=8), setting(4, 512, 8), setting(8, 1024, 12, rank=64, optimizer="adamw"),
        setting(16, 1024, 24), setting(2, 4096, 16), setting(16, 1024, 8, checkpointing=True),
        *edge((8, 12, 16, 24), 16, (8, 16))],
    ("llama-3.2-3b", "nf4"): [
        setting(2, 1024, 12), setting(4, 1024, 8, rank=32, checkpointing=True), *edge((12, 16), 2, (8, 16))],
    ("llama-3.1-8b", "none"): [setting(1, 512, 24, rank=8), setting(1, 1024, 24, checkpointing=True)],
    ("llama-3.2-1b", "none"): [
        setting(4, 1024, 16, rank=64), setting(2, 1024, 8, checkpointing=True), *edge((12, 24), 4, (12,), rank=8)],
    ("smollm2-135m", "none"): [
        setting(4, 512, 8), setting(8, 1024, 12, rank=64), setting(16, 1024, 12, checkpointing=True),
        *edge((8, 16), 16, (12,), rank=8)],
}


def run(program, limit):
    start = time.time()
    for (shape, base), settings in MODELS.items():
        lines = "".join(json.dumps(s) + "\n" for s in settings)
        left = limit - (time.time() - start)
        try:
            done = subprocess.run([program, "--shape", shape, "--format", base], input=lines, capture_output=True,
                                  text=True, timeout=max(1, left))
            out, problem = done.stdout, done.stderr.strip()
        except subprocess.TimeoutExpired as late:
            out, problem = (late.stdout or b"").decode(), "no time left"
        print(out, end="")
        print(f"{shape} {base}: {time.time() - start:.0f} s {problem[:300]}", file=sys.stderr, flush=True)


def used(row):
    """What the process held of the device at its peak."""
    return row["memory_device_used_bytes"]


def ran(row):
    """Within its cap and by the plan it was given."""
    return "memory_device_used_bytes" in row and "error" not in row and "warnings" not in row


def summary(rows):
    """Settings, used at most planned, above 1.03 x planned or out of memory; median, worst under, worst over."""
    over = sorted(r["planned"] / used(r) - 1 for r in rows if ran(r))
    above = sum(used(r) > 1.03 * r["planned"] for r in rows if ran(r)) + sum(not ran(r) for r in rows)
    return [len(rows), sum(o >= 0 for o in over), above, statistics.median(over), over[0], over[-1]]


def line(cells):
    print("| " + " | ".join(str(c) for c in cells) + " |")


def report(log, svg):
    rows = [json.loads(text) for text in open(log) if text.startswith("{")]
    measured = [r for r in rows if not r.get("skipped")]
    for r in measured:
        if not ran(r):
            print("ran out of memory:", json.dumps(r), file=sys.stderr)
    line(["settings", "number", "used at most planned", "above 1.03 x or out of memory", "median over", "worst under",
          "worst over"])
    line(["---"] * 7)
    groups = collections.defaultdict(list)
    for r in measured:
        groups[f"{r['shape']} {r['format']}"].append(r)
        groups[f"cap {r['cap_gib']} GiB"].append(r)
        groups[r.get("method", "sft")].append(r)
    for name, some in [*groups.items(), ("all", measured)]:
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
