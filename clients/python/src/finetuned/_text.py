"""Numbers and tables for people, as the command line writes them."""

import math
from collections.abc import Iterable, Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def bytes_text(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def count_text(count: float) -> str:
    if not math.isfinite(count):
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 10 * size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def duration_text(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h {m:02d}m" if hours else f"{m}m {s:02d}s" if m else f"{s}s"


def number_text(value: float | None, spec: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, spec)


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart."""
    listed = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in listed) for i in range(len(listed[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in listed)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The last values as blocks; more than `width` of them are averaged in groups."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    size = max(1, math.ceil(len(finite) / width))
    groups = [sum(finite[i : i + size]) / len(finite[i : i + size]) for i in range(0, len(finite), size)]
    low, high = min(groups), max(groups)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[min(7, int((g - low) / span * 8))] for g in groups)
