"""Draws the mean reward over the steps of runs, from their events.jsonl, as an SVG without any library.

    python3 docs/plot_rewards.py --out docs/grpo.svg "arithmetic=DIR/events.jsonl" "GSM8K format=DIR/events.jsonl"
"""

import argparse
import json
import pathlib

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 260, 48, 36, 28
COLORS = ["#1f6fb2", "#c2571a", "#3a8f3a", "#7a4fa3"]
SMOOTH = 0.8  # share of the old value in the thick line


def read(path):
    steps, evals = [], []
    for line in pathlib.Path(path).read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "step" and "reward" in event["values"]:
            steps.append((event["step"], event["values"]["reward"]))
        elif event["type"] == "eval" and "eval_reward" in event["values"]:
            evals.append((event["step"], event["values"]["eval_reward"]))
    return steps, evals


def smoothed(points):
    out, value = [], points[0][1]
    for x, y in points:
        value = SMOOTH * value + (1 - SMOOTH) * y
        out.append((x, value))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("runs", nargs="+", help="NAME=events.jsonl")
    args = parser.parse_args()
    runs = [(name, *read(path)) for name, path in (run.split("=", 1) for run in args.runs)]
    last = max(x for _, steps, _ in runs for x, _ in steps)
    values = [y for _, steps, evals in runs for _, y in steps + evals]
    low, high = min(0.0, *values), max(1.0, *values)

    def place(point):
        x = LEFT + (WIDTH - LEFT - 12) * point[0] / last
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (point[1] - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    def line(points, color, width, opacity):
        path = " ".join(map(place, points))
        return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" opacity="{opacity}"/>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        y = place((0, value)).split(",")[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y}" y2="{y}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy="4">{value:.2f}</text>')
    for tick in range(0, 5):
        x = place((last * tick / 4, low)).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{last * tick // 4}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>')
    for i, (name, steps, evals) in enumerate(runs):
        color = COLORS[i % len(COLORS)]
        parts += [line(steps, color, 1, 0.35), line(smoothed(steps), color, 2.5, 1)]
        for point in evals:
            x, y = place(point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="white" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + 8 + 200 * i}" y="16" fill="{color}">mean reward, {name}</text>')
    parts.append("</svg>")
    pathlib.Path(args.out).write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
