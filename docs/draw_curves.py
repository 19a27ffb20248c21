"""Draws metrics of runs as an SVG file, with nothing but Python: python3 draw_curves.py OUT.svg METRIC=NAME:events.jsonl ...

One panel per argument: METRIC over the optimizer steps of the run whose events.jsonl (finetune-worker --state) is given, as
a line, and eval_METRIC of the held-out rows as dots. NAME is the panel's title.
"""

import json
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 300, 190, 48, 30, 28, 14


def series(path, metric):
    line, dots = [], []
    for text in open(path):
        event = json.loads(text)
        if event.get("type") == "step" and metric in event["values"]:
            line.append((event["step"], event["values"][metric]))
        if event.get("type") == "eval" and "eval_" + metric in event["values"]:
            dots.append((event["step"], event["values"]["eval_" + metric]))
    return line, dots


def panel(x0, title, metric, line, dots):
    points = line + dots
    if not points:
        raise SystemExit(f"{title}: no {metric} in the events")
    last = max(1, max(p[0] for p in points))
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    if high == low:
        high, low = high + 0.5, low - 0.5
    left, right, top, bottom = x0 + LEFT, x0 + WIDTH - GAP, TOP, HEIGHT - BOTTOM

    def place(p):
        return (left + (right - left) * p[0] / last, bottom - (bottom - top) * (p[1] - low) / (high - low))

    out = [f'<text x="{x0 + WIDTH / 2:.0f}" y="14" text-anchor="middle" font-weight="bold">{title}: {metric}</text>',
           f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>']
    for value, y in ((high, top), (low, bottom)):
        out.append(f'<text x="{left - 4}" y="{y + 4:.0f}" text-anchor="end">{value:.3g}</text>')
    out.append(f'<text x="{right}" y="{bottom + 14}" text-anchor="end">step {last}</text>')
    if line:
        path = " ".join("%.1f,%.1f" % place(p) for p in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="#4a90d9" stroke-width="1"/>')
    for p in dots:
        out.append('<circle cx="%.1f" cy="%.1f" r="3.5" fill="#d9534a"/>' % place(p))
    return out


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    body = []
    for i, argument in enumerate(sys.argv[2:]):
        metric, rest = argument.split("=", 1)
        name, path = rest.split(":", 1)
        body += panel(i * WIDTH, name, metric, *series(path, metric))
    total = WIDTH * (len(sys.argv) - 2)
    with open(sys.argv[1], "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {HEIGHT}" width="{total}" height="{HEIGHT}" '
                'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>\n')
        f.write("\n".join(body) + "\n</svg>\n")


if __name__ == "__main__":
    main()
