#!/usr/bin/env python3
"""Draws where the time of steps goes: a bar a run, from lines that step_bench --profile printed.

breakdown.py OUT.svg LABEL=RESULT.json ...
"""
import json
import sys

KINDS = [("product", "#31688e"), ("attention", "#35b779"), ("norm, rope, swiglu", "#fde725"),
         ("dequantization", "#f98e52"), ("codes", "#d8576b"), ("other elementwise", "#9aa5b1"), ("loss", "#7a5195"),
         ("optimizer", "#444444"), ("copies", "#bcbddc"), ("idle", "#ffffff")]
WIDTH, LEFT, BAR, GAP = 960, 190, 34, 22


def milliseconds(result):
    kinds = dict(result["profile"]["ms_by_kind"])
    kinds["idle"] = max(0.0, result["step_ms"] - sum(kinds.values()))
    return kinds


def draw(runs):
    longest = max(sum(kinds.values()) for _, kinds in runs)
    scale = (WIDTH - LEFT - 90) / longest
    height = len(runs) * (BAR + GAP) + 70
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
           f'font-size="13"><rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']
    for i, (label, kinds) in enumerate(runs):
        x, y = LEFT, 14 + i * (BAR + GAP)
        out.append(f'<text x="{LEFT - 10}" y="{y + 22}" text-anchor="end">{label}</text>')
        for kind, color in KINDS:
            ms = kinds.get(kind, 0)
            if ms * scale < 0.5:
                continue
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{ms * scale:.1f}" height="{BAR}" fill="{color}" '
                       f'stroke="#333333" stroke-width="0.5"><title>{kind}: {ms:.1f} ms</title></rect>')
            if ms * scale > 44:
                dark = kind in ("product", "loss", "optimizer", "codes")
                out.append(f'<text x="{x + ms * scale / 2:.1f}" y="{y + 22}" text-anchor="middle" '
                           f'fill="{"#ffffff" if dark else "#222222"}">{ms:.0f}</text>')
            x += ms * scale
        out.append(f'<text x="{x + 6:.1f}" y="{y + 22}">{sum(kinds.values()):.0f} ms</text>')
    x, y = 20, height - 30
    for kind, color in KINDS:
        out.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{color}" stroke="#333333" stroke-width="0.5"/>'
                   f'<text x="{x + 16}" y="{y + 11}" font-size="11">{kind}</text>')
        x += 34 + 6.2 * len(kind)
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    runs = []
    for argument in sys.argv[2:]:
        label, path = argument.split("=", 1)
        with open(path) as f:
            runs.append((label, milliseconds(json.load(f))))
    with open(sys.argv[1], "w") as f:
        f.write(draw(runs))


if __name__ == "__main__":
    main()
