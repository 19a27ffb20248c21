"""Metrics as tables and pictures. pandas and matplotlib are imported when they are used."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import _html
from ._errors import InvalidArgument, MissingDependency
from ._job_view import JobView
from ._text import duration_text, number_text, table
from ._values import Series

LOSSES = ("loss", "eval_loss")


def frame(series: Mapping[str, Series]) -> Any:
    """A pandas DataFrame: index "step", a column per metric (NaN where it has no value), and "time" (UTC)."""
    try:
        import pandas
    except ImportError:
        raise MissingDependency(
            "metrics() needs pandas: pip install 'finetuned[pandas]' (series() does without)"
        ) from None
    columns = {k: pandas.Series(s.values, index=s.steps, dtype="float64") for k, s in sorted(series.items())}
    times: dict[int, float] = {}
    for s in series.values():
        times.update(zip(s.steps, s.times, strict=True))
    out = pandas.DataFrame({k: c[~c.index.duplicated(keep="last")] for k, c in columns.items()})
    out = out.sort_index()
    out["time"] = pandas.to_datetime([times[i] for i in out.index], unit="s", utc=True)
    out.index.name = "step"
    return out


def plot_series(by_job: Mapping[str, Mapping[str, Series]], ax: Any = None) -> Any:
    """Draws every series of every job into `ax`; returns the axes."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingDependency("plot() needs matplotlib: pip install 'finetuned[plot]'") from None
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    drawn = [(job, key, s) for job, series in by_job.items() for key, s in series.items()]
    keys = {key for _, key, _ in drawn}
    if not drawn:
        raise InvalidArgument(f"no metric to draw yet of {', '.join(by_job)}")
    for i, (job, key, s) in enumerate(drawn):
        label = " ".join(([job] if len(by_job) > 1 else []) + ([key] if len(keys) > 1 or len(by_job) == 1 else []))
        few = len(s.steps) <= 30
        ax.plot(
            s.steps,
            s.values,
            label=label,
            color=_html.COLORS[i % len(_html.COLORS)],
            linewidth=1.6,
            marker="o" if few else None,
            markersize=3.5,
        )
    ax.set_xlabel("step")
    ax.set_ylabel(keys.pop() if len(keys) == 1 else "")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def flat(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"lora": {"rank": 16}} -> {"lora.rank": "16"}."""
    out: dict[str, str] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = str(value)
    return out


class Comparison:
    """Jobs side by side. `differences`: setting -> its value in each job; `results`: likewise how they ended."""

    def __init__(self, jobs: Sequence[tuple[JobView, Mapping[str, Series]]], key: str) -> None:
        self.jobs = [job for job, _ in jobs]
        self.key = key
        self.curves = {job.id: series[key] for job, series in jobs if key in series}
        specs = [flat(job.resolved_spec) for job in self.jobs]
        names = sorted({name for s in specs for name in s})
        rows = {name: [s.get(name, "-") for s in specs] for name in names}
        self.differences = {name: row for name, row in rows.items() if len(set(row)) > 1}
        self.results = self._results([series for _, series in jobs])

    def _results(self, all_series: Sequence[Mapping[str, Series]]) -> dict[str, list[str]]:
        def row(key: str, pick: Any) -> list[str]:
            found = ([v for v in s[key].values if math.isfinite(v)] if key in s else [] for s in all_series)
            return [number_text(pick(v) if v else None, ".4f") for v in found]

        out = {
            "state": [j.state for j in self.jobs],
            "steps": [str(j.step) for j in self.jobs],
            f"last {self.key}": row(self.key, lambda v: v[-1]),
            f"best {self.key}": row(self.key, min),
            "held-out loss": row("eval_loss", lambda v: v[-1]),
            "time": [duration_text(j.elapsed) for j in self.jobs],
        }
        return {k: v for k, v in out.items() if set(v) != {"-"}}

    def _rows(self) -> list[list[str]]:
        head = ["", *(j.id for j in self.jobs)]
        return [head, *([k, *v] for k, v in {**self.differences, **self.results}.items())]

    def frame(self) -> Any:
        """The curves as a pandas DataFrame: a column per job."""
        return frame(self.curves).drop(columns="time")

    def plot(self, ax: Any = None) -> Any:
        return plot_series({job: {self.key: s} for job, s in self.curves.items()}, ax)

    def __str__(self) -> str:
        return table(self._rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        curves = {job: list(zip(s.steps, s.values, strict=True)) for job, s in self.curves.items()}
        escaped = [[_html.escape(c) for c in row] for row in self._rows()]
        return _html.card(
            f"{self.key} of {len(self.jobs)} jobs", "", {}, [], _html.line_chart(curves) + _html.html_table(escaped)
        )
