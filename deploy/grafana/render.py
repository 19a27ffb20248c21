#!/usr/bin/env python3
"""Draws the dashboard's panels from a Prometheus with matplotlib, for documents; same queries, no Grafana.

Usage: render.py PROMETHEUS_URL OUTPUT.png
"""

import json
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


def query_range(url, expr, end):
    arguments = {"query": expr, "start": end - SECONDS, "end": end, "step": 2}
    answer = urllib.request.urlopen(f"{url}/api/v1/query_range?" + urllib.parse.urlencode(arguments))
    return json.load(answer)["data"]["result"]


def legend(template, labels):
    return re.sub(r"{{(\w+)}}", lambda m: labels.get(m.group(1), ""), template)


def scale(unit):
    return (2**20, "MiB") if unit == "bytes" else (1, {"s": "seconds"}.get(unit, ""))


def draw_panel(axes, title, unit, lines, start):
    factor, label = scale(unit)
    for name, points in lines:
        axes.plot([float(t) - start for t, _ in points], [float(v) / factor for _, v in points], label=name)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_ylabel(label, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if unit != "sci":
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=5.5, loc="best")


def draw(url, output):
    """Panels without data (a GPU's, on a machine without one) are left out."""
    end = time.time()
    panels = []
    for members in make_dashboard.ROWS.values():
        for title, unit, queries in members:
            lines = [(legend(text, result["metric"]), result["values"])
                     for expr, text in queries for result in query_range(url, expr, end)]
            if lines:
                panels.append((title, unit, lines))
    start = min(float(points[0][0]) for _, _, lines in panels for _, points in lines)
    rows = -(-len(panels) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 2.3 * rows), squeeze=False)
    for axes in grid.flat[len(panels):]:
        axes.axis("off")
    for axes, (title, unit, lines) in zip(grid.flat, panels):
        draw_panel(axes, title, unit, lines, start)
    figure.supxlabel("seconds", fontsize=8)
    figure.tight_layout()
    figure.savefig(output, dpi=80)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
