"""HTML and SVG for notebooks, in plain strings: no script, no outside files, readable on light and dark pages."""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

_STATE_COLORS = {
    "SUCCEEDED": "#1a7f37",
    "accepted": "#1a7f37",
    "ACTIVE": "#1a7f37",
    "RUNNING": "#0969da",
    "FAILED": "#cf222e",
    "refused": "#cf222e",
    "INVALID": "#cf222e",
    "CANCELLED": "#9a6700",
}
_NOTE_COLORS = {"error": "#cf222e", "problem": "#cf222e", "warning": "#9a6700", "fits": "#1a7f37"}
# Okabe and Ito's palette: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
_FONT = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45"


def escape(text: object) -> str:
    return html.escape(str(text))


def badge(state: str) -> str:
    if not state:
        return ""
    color = _STATE_COLORS.get(state, "#6e7781")
    style = f"background:{color};color:#fff;border-radius:9px;padding:1px 8px;font-size:11px"
    return f'<span style="{style}">{escape(state)}</span>'


def card(title: str, state: str, facts: Mapping[str, str], notes: Iterable[tuple[str, str]], body: str = "") -> str:
    """A headline with its state, named facts, a body, and notes by kind."""
    shown = " &nbsp; ".join(f'<span style="opacity:.65">{escape(k)}</span> {escape(v)}' for k, v in facts.items())
    lines = "".join(
        f'<div style="color:{_NOTE_COLORS.get(kind, "inherit")}">{escape(kind)}: {escape(text)}</div>'
        for kind, text in notes
    )
    return (
        f'<div style="{_FONT};border:1px solid #8888;border-radius:6px;padding:8px 12px;margin:4px 0;max-width:760px">'
        f"<div><b>{escape(title)}</b> {badge(state)}</div><div>{shown}</div>{body}{lines}</div>"
    )


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head; cells may hold HTML of ours."""
    head = "".join(f'<th style="text-align:left;padding:2px 10px">{c}</th>' for c in rows[0])
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left;padding:2px 10px">{c}</td>' for c in row) + "</tr>"
        for row in rows[1:]
    )
    return f'<table style="{_FONT};border-collapse:collapse"><tr>{head}</tr>{body}</table>'


def progress_bar(fraction: float) -> str:
    percent = max(0.0, min(1.0, fraction)) * 100
    return (
        f'<div style="background:#8883;border-radius:4px;height:8px;margin:5px 0">'
        f'<div style="background:#0969da;border-radius:4px;height:8px;width:{percent:.1f}%"></div></div>'
    )


def stacked_bar(parts: Mapping[str, float], text: Callable[[float], str], limit: float = 0.0) -> str:
    """Parts of a whole side by side; `limit` draws the whole against it."""
    total = sum(parts.values())
    whole = max(total, limit) or 1.0
    bar, legend = [], []
    for i, (name, value) in enumerate(parts.items()):
        color = COLORS[i % len(COLORS)]
        bar.append(
            f'<div title="{escape(name)} {escape(text(value))}" style="background:{color};'
            f'width:{100 * value / whole:.2f}%"></div>'
        )
        legend.append(f'<span style="color:{color}">■</span> {escape(name)} {escape(text(value))}')
    return (
        f'<div style="display:flex;height:14px;background:#8883;border-radius:4px;overflow:hidden;margin:6px 0">'
        f'{"".join(bar)}</div><div style="font-size:12px">{" &nbsp; ".join(legend)}</div>'
    )


def token_row(title: str, drop_reason: str, parts: Iterable[tuple[str, bool]]) -> str:
    spans = "".join(
        f'<span style="background:{"#2da44e55" if on else "transparent"}">{escape(t)}</span>' for t, on in parts
    )
    dropped = f' <span style="color:#cf222e">{escape(drop_reason)}</span>' if drop_reason else ""
    return (
        f'<div style="{_FONT};margin:6px 0"><b>{escape(title)}</b>{dropped}'
        f'<pre style="white-space:pre-wrap;margin:2px 0;font-size:12px">{spans}</pre></div>'
    )


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between low and high."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Sequence[tuple[float, float]], most: int = 400) -> Sequence[tuple[float, float]]:
    """At most about `most` points: of each group its lowest and highest."""
    if len(points) <= most:
        return points
    size = math.ceil(2 * len(points) / most)
    out: list[tuple[float, float]] = []
    for i in range(0, len(points), size):
        group = points[i : i + size]
        ends = (min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1]))
        out += sorted(set(ends))
    return out


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], width: int = 560, height: int = 200, x_max: float = 0.0
) -> str:
    """Curves of (step, value) as SVG; values that are not finite are left out. "" with nothing to draw."""
    kept = {n: [p for p in points if math.isfinite(p[1])] for n, points in curves.items()}
    kept = {n: p for n, p in kept.items() if p}
    if not kept:
        return ""
    xs = [x for p in kept.values() for x, _ in p]
    ys = [y for p in kept.values() for _, y in p]
    x0, x1 = min(xs), max(max(xs), x_max, min(xs) + 1)
    pad = (max(ys) - min(ys)) * 0.06 or abs(max(ys)) * 0.1 or 1.0
    y0, y1 = min(ys) - pad, max(ys) + pad
    left, right, top, bottom = 52, 10, 8, 22

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (width - left - right)

    def py(y: float) -> float:
        return top + (y1 - y) / (y1 - y0) * (height - top - bottom)

    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="max-width:100%" '
        'font-family="system-ui,sans-serif" font-size="11" fill="currentColor">'
    ]
    for y in _ticks(y0, y1):
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}" stroke="#8884"/>'
            f'<text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    for x in _ticks(x0, x1, 6):
        if x == int(x):
            parts.append(f'<text x="{px(x):.1f}" y="{height - 6}" text-anchor="middle">{int(x)}</text>')
    for i, (name, points) in enumerate(kept.items()):
        color = COLORS[i % len(COLORS)]
        line = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in _thinned(points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        if len(points) <= 30:
            parts += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.4" fill="{color}"/>' for x, y in points]
        parts.append(
            f'<text x="{width - right - 6}" y="{top + 12 + 14 * i}" text-anchor="end" fill="{color}">'
            f"{escape(name)}</text>"
        )
    return "".join([*parts, "</svg>"])
