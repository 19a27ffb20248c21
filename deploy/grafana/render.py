#!/usr/bin/env python3
"""Draws the dashboard's panels from a Prometheus with matplotlib, for documents; same queries, no Grafana.

Usage: render.py PROMETHEUS_URL OUTPUT.png
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import make_dashboard  # noqa: E402

SECONDS = 1800
COLUMNS = 4
LEGEND_LINES = 8


def query_range(url, expr, end):
    arguments = {"query": expr, "start": end - SECONDS, "end": end, "step": 2}
    answer = urllib.request.urlopen(f"{url}/api/v1/query_range?" + urllib.parse.urlencode(arguments))
    return json.load(answer)["data"]["result"]


def legend(template, labels):
    return re.sub(r"{{(\w+)}}", lambda m: labels.get(m.group(1), ""), template)


def scale(unit):
    return (2**20, "MiB") if unit == "bytes" else (1, {"s": "seconds"}.get(unit, ""))


def seen(points):
    """Whether a series ever was anything but zero or no number."""
    return any(float(value) != 0 and not math.isnan(float(value)) for _, value in points)


def draw_panel(axes, title, unit, lines, start, end):
    factor, label = scale(unit)
    for name, points in lines:
        axes.plot([float(t) - start for t, _ in points], [float(v) / factor for _, v in points], label=name)
    axes.set_title(title, fontsize=10, loc="left", pad=10 if unit == "sci" else 6)
    axes.set_ylabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.set_xlim(0, end - start)
    if unit != "sci":
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.legend(fontsize=7, loc="best", ncols=1 if len(lines) <= LEGEND_LINES else 2)


def read_panels(url, members, end):
    """Panels without data (a GPU's, on a machine without one) and series that were only ever zero are left out."""
    panels = []
    for title, unit, queries in members:
        lines = [(legend(text, result["metric"]), result["values"])
                 for expr, text in queries for result in query_range(url, expr, end) if seen(result["values"])]
        if lines:
            panels.append((title, unit, lines))
    return panels


def draw(url, output):
    end = time.time()
    sections = {name: read_panels(url, members, end) for name, members in make_dashboard.ROWS.items()}
    sections = {name: panels for name, panels in sections.items() if panels}
    start = min(float(points[0][0]) for panels in sections.values() for _, _, lines in panels for _, points in lines)
    rows = [-(-len(panels) // COLUMNS) for panels in sections.values()]
    figure = plt.figure(figsize=(3.6 * COLUMNS, 2.2 * sum(rows) + 0.3 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=[2.2 * r + 0.3 for r in rows])
    for part, count, (name, panels) in zip(parts.flat, rows, sections.items()):
        part.suptitle(name, x=0.01, ha="left", fontsize=12, weight="bold")
        grid = part.subplots(count, COLUMNS, squeeze=False)
        for axes in grid.flat[len(panels):]:
            axes.axis("off")
        for axes, panel in zip(grid.flat, panels):
            draw_panel(axes, *panel, start, end)
    figure.supxlabel("seconds", fontsize=8)
    figure.savefig(output, dpi=75)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
