"""Where watch() draws: a live bar in a terminal (rich), a live chart in a notebook, else plain lines."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from ._errors import InvalidArgument, MissingDependency
from ._job_view import JobView, WatchState
from ._text import sparkline
from ._values import Event

MODES = ("auto", "notebook", "rich", "plain", "quiet")


class Screen:
    """Draws nothing; base of the others. Use it as a context."""

    def __init__(self, job: JobView, out: TextIO) -> None:
        self.view, self.out = WatchState(job), out

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def show(self, event: Event) -> None:
        self.view.apply(event)


class PlainScreen(Screen):
    """A line per change of state, per note, and per twentieth of the steps or 10 seconds."""

    _said_step, _said_time = -1, 0.0

    def show(self, event: Event) -> None:
        before = self.view.state
        note = self.view.apply(event)
        if note:
            self._say(note)
        elif self.view.state != before:
            self._say(self.view.headline())
        elif event.kind == "metrics" and self._due():
            self._said_step, self._said_time = self.view.step, time.monotonic()
            facts = self.view.facts()
            kept = ("loss", "reward", "tokens/s", "ETA")
            self._say(
                f"step {self.view.step}/{self.view.total_steps}"
                + "".join(f"  {k} {facts[k]}" for k in kept if k in facts)
            )

    def _due(self) -> bool:
        v = self.view
        far = v.step - self._said_step >= max(1, v.total_steps // 20) or v.step == v.total_steps
        return far or time.monotonic() - self._said_time > 10

    def _say(self, line: str) -> None:
        print(line, file=self.out, flush=True)


class RichScreen(Screen):
    """A block of lines that is redrawn in place; notes scroll by above it."""

    def __init__(self, job: JobView, out: TextIO) -> None:
        super().__init__(job, out)
        try:
            import rich.console
            import rich.live
        except ImportError:
            raise MissingDependency("the live view needs rich: pip install 'finetuned[rich]'") from None
        self._console = rich.console.Console(file=out)
        self._live = rich.live.Live(console=self._console, refresh_per_second=8, get_renderable=self._draw)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        note = self.view.apply(event)
        if note:
            self._live.console.print(note, markup=False)

    def _draw(self) -> Any:
        import rich.console
        import rich.progress_bar
        import rich.table
        import rich.text

        view = self.view
        parts: list[Any] = [rich.text.Text(view.headline(), style="bold", overflow="ellipsis", no_wrap=True)]
        if view.total_steps:
            row = rich.table.Table.grid(padding=(0, 1))
            row.add_row(
                rich.progress_bar.ProgressBar(total=view.total_steps, completed=view.step, width=40),
                f"{view.step}/{view.total_steps} steps  epoch {view.epoch:.2f}",
            )
            parts.append(row)
        if view.losses:
            parts.append(rich.text.Text(sparkline([y for _, y in view.losses]), style="cyan"))
        if facts := view.facts():
            parts.append(rich.text.Text("  ".join(f"{k} {v}" for k, v in facts.items())))
        return rich.console.Group(*parts)


class NotebookScreen(Screen):
    """One output cell with progress and curves, replaced at most twice a second."""

    _drawn = 0.0

    def __enter__(self) -> "Screen":
        import IPython.display

        self._ipython: Any = IPython.display
        self._handle = self._ipython.display(self._ipython.HTML(self.view.html()), display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._draw()

    def show(self, event: Event) -> None:
        self.view.apply(event)
        if time.monotonic() - self._drawn > 0.5:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._handle.update(self._ipython.HTML(self.view.html()))


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel (an IPython terminal is none)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def choose(mode: str, job: JobView, out: TextIO | None = None) -> Screen:
    """`mode` "auto" looks at where it runs."""
    out = out or sys.stdout
    if mode not in MODES:
        raise InvalidArgument(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "auto":
        mode = "notebook" if in_notebook() else "rich" if out.isatty() else "plain"
        if mode == "rich":
            try:
                return RichScreen(job, out)
            except MissingDependency:
                mode = "plain"
    return {"notebook": NotebookScreen, "rich": RichScreen, "plain": PlainScreen, "quiet": Screen}[mode](job, out)
