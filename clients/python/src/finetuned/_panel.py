"""A job in a notebook cell that does not block the others: live chart, and buttons that act on the job."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._errors import FinetunedError, MissingDependency
from ._job_view import TERMINAL, WatchState

if TYPE_CHECKING:
    from .client import Job

# What can be done in which states.
_ACTIONS = {
    "Pause": ("QUEUED", "PREPARING", "RUNNING"),
    "Resume": ("PAUSED",),
    "Finish now": ("RUNNING",),
    "Cancel": ("QUEUED", "PREPARING", "RUNNING", "PAUSED"),
}


class Panel:
    """Follows the job from a thread of its own until it ends. Show it as the last line of a cell."""

    def __init__(self, job: "Job") -> None:
        try:
            import ipywidgets
        except ImportError:
            raise MissingDependency("panel() needs ipywidgets: pip install 'finetuned[notebook]'") from None
        widgets: Any = ipywidgets
        self._job, self._view = job, WatchState(job)
        calls: dict[str, Callable[[], Any]] = {
            "Pause": job.pause,
            "Resume": job.resume,
            "Finish now": job.stop,
            "Cancel": job.cancel,
        }
        self.chart: Any = widgets.HTML()
        self.said: Any = widgets.Label()  # what a button's call answered
        self.buttons: dict[str, Any] = {name: widgets.Button(description=name) for name in _ACTIONS}
        for name, button in self.buttons.items():
            button.on_click(lambda _, call=calls[name]: self._act(call))
        self.widget: Any = widgets.VBox([self.chart, widgets.HBox([*self.buttons.values(), self.said])])
        self._draw()
        self.thread = threading.Thread(target=self._follow, name=f"finetuned-panel-{job.id}", daemon=True)
        self.thread.start()

    def _ipython_display_(self) -> None:
        import IPython.display

        ipython: Any = IPython.display
        ipython.display(self.widget)

    def _act(self, call: Callable[[], Any]) -> None:
        try:
            call()
            self.said.value = ""
        except FinetunedError as error:
            self.said.value = str(error)

    def _follow(self) -> None:
        drawn = 0.0
        try:
            for event in self._job.events():
                self._view.apply(event)
                if event.kind == "state_changed" or time.monotonic() - drawn > 0.5:
                    self._draw()
                    drawn = time.monotonic()
        except (FinetunedError, ValueError) as error:  # ValueError: the connection was closed
            self.said.value = str(error)
        self._draw()

    def _draw(self) -> None:
        self.chart.value = self._view.html()
        for name, states in _ACTIONS.items():
            self.buttons[name].layout.display = "none" if self._view.state in TERMINAL else None
            self.buttons[name].disabled = self._view.state not in states
