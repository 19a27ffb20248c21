"""What is known about a job: the part that both job handles share, and its live picture."""

import datetime
from collections.abc import Mapping
from typing import Any

from . import _html
from ._text import bytes_text, count_text, duration_text, number_text
from ._values import Event, as_dict, short_name
from .v1 import jobs_pb2
from .v1.state_pb2 import JobState, StateReason

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


class JobView:
    """A job as it was at the last answer of the daemon; `proto` is that answer."""

    def __init__(self, proto: jobs_pb2.Job) -> None:
        self.proto = proto

    @property
    def name(self) -> str:
        """ "jobs/x"."""
        return self.proto.name

    @property
    def id(self) -> str:
        return short_name(self.proto.name)

    @property
    def method(self) -> str:
        return self.proto.spec.WhichOneof("method") or ""

    @property
    def state(self) -> str:
        return JobState.Name(self.proto.state)

    @property
    def reason(self) -> str:
        """Why it is in this state: a stable code, or ""."""
        return StateReason.Name(self.proto.state_reason) if self.proto.state_reason else ""

    @property
    def done(self) -> bool:
        return self.state in TERMINAL

    @property
    def step(self) -> int:
        return self.proto.progress.step

    @property
    def total_steps(self) -> int:
        """0: not known yet."""
        return self.proto.progress.total_steps

    @property
    def latest(self) -> dict[str, float]:
        """The newest value of each metric."""
        return dict(self.proto.progress.latest_metrics)

    @property
    def adapter(self) -> str:
        """ "adapters/x" once it has succeeded."""
        return self.proto.output_adapter

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.proto.labels)

    @property
    def created(self) -> datetime.datetime:
        return self.proto.create_time.ToDatetime(datetime.UTC)

    @property
    def elapsed(self) -> float:
        """Seconds on the GPU, all attempts."""
        return self.proto.progress.elapsed.ToTimedelta().total_seconds()

    @property
    def spec(self) -> dict[str, Any]:
        """As it was submitted."""
        return as_dict(self.proto.spec)

    @property
    def resolved_spec(self) -> dict[str, Any]:
        """With every default filled in."""
        return as_dict(self.proto.resolved_spec)

    def why_text(self) -> str:
        """One sentence on why it waits, is paused or failed."""
        p = self.proto
        text = f"{self.id} is {self.state}" + (f" ({self.reason})" if self.reason else "")
        if p.state_message:
            text += f": {p.state_message}"
        if self.state == "QUEUED" and p.progress.queue_position > 0:
            text += f"\nPosition {p.progress.queue_position} in the queue."
        return text

    def __repr__(self) -> str:
        at = f"  {self.step}/{self.total_steps} steps" if self.total_steps else ""
        loss = self.latest.get("loss")
        return f"Job({self.id})  {self.method.upper()}  {self.state}{at}" + (
            "" if loss is None else f"  loss {loss:.4f}"
        )

    def _repr_html_(self) -> str:
        return WatchState(self).html()


def jobs_html(jobs: list[Any]) -> str:
    if not jobs:
        return "<div>No jobs yet.</div>"
    rows = [["job", "method", "model", "state", "progress", "loss"]]
    for j in jobs:
        at = f"{j.step}/{j.total_steps}" if j.total_steps else "-"
        rows.append(
            [
                _html.escape(j.id),
                j.method,
                _html.escape(short_name(j.proto.spec.base_model)),
                _html.badge(j.state),
                at,
                number_text(j.latest.get("loss"), ".4f"),
            ]
        )
    return _html.html_table(rows)


class WatchState:
    """What a watcher knows: a job and the events seen since. Draws lines of text or HTML."""

    def __init__(self, job: JobView) -> None:
        self.job = job
        self.state, self.message = job.state, job.proto.state_message
        self.step, self.total_steps, self.epoch = job.step, job.total_steps, job.proto.progress.epoch
        self.attempt = job.proto.attempt
        self.latest: dict[str, float] = job.latest
        self.losses: list[tuple[float, float]] = []
        self.eval_losses: list[tuple[float, float]] = []
        self.rewards: list[tuple[float, float]] = []
        self.eval_rewards: list[tuple[float, float]] = []
        self.notes: list[str] = []
        self._started = job.proto.start_time.seconds
        self._now = 0.0

    def apply(self, event: Event) -> str:
        """Takes an event in; returns a line worth keeping on the screen, or ""."""
        self._now = event.proto.time.seconds + event.proto.time.nanos * 1e-9
        self.attempt = event.proto.attempt or self.attempt
        if event.kind == "state_changed":
            self.state, self.message = JobState.Name(event.data.to), event.data.message
            if self.state in ("PREPARING", "RUNNING") and not self._started:
                self._started = int(self._now)
        elif event.kind == "planned":
            self.total_steps, self.step = event.data.total_steps, event.data.first_step
        elif event.kind == "metrics":
            self._apply_metrics(event.data.step, event.data.epoch, event.values)
        elif event.kind == "eval":
            for key, curve in (("eval_loss", self.eval_losses), ("eval_reward", self.eval_rewards)):
                if key in event.values:
                    curve.append((event.data.step, event.values[key]))
        note = self._note(event)
        if note:
            self.notes = [*self.notes[-4:], note]
        return note

    def _apply_metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        # A later attempt runs the steps after its checkpoint again: its curves replace the old ones.
        for curve in (self.losses, self.rewards):
            while curve and curve[-1][0] >= step:
                curve.pop()
        self.step, self.epoch = step, epoch
        self.latest.update(values)
        if "loss" in values:
            self.losses.append((step, values["loss"]))
        if "reward" in values:
            self.rewards.append((step, values["reward"]))

    def _note(self, event: Event) -> str:
        d = event.data
        if event.kind == "warning":
            return f"warning {d.code}: {d.text}"
        if event.kind == "checkpoint":
            return f"checkpoint at step {d.step} ({bytes_text(d.size_bytes)})"
        if event.kind == "eval":
            shown = ("eval_loss", "eval_mean_token_accuracy", "eval_rewards/accuracies", "eval_reward")
            return f"evaluation at step {d.step}:" + "".join(f" {k} {d.values[k]:.4f}" for k in shown if k in d.values)
        if event.kind == "log" and d.level >= 2:
            return str(d.text)
        if event.kind == "gap":
            return f"events {d.first_missing} to {d.last_missing} are no longer kept"
        if (
            event.kind == "state_changed"
            and self.state == "QUEUED"
            and JobState.Name(getattr(d, "from")) != "VALIDATING"
        ):
            return str(d.message)
        return ""

    @property
    def fraction(self) -> float:
        return self.step / self.total_steps if self.total_steps else 0.0

    def seconds_left(self) -> float:
        rate = self.latest.get("step_time", float("nan"))
        return rate * max(0, self.total_steps - self.step)

    def headline(self) -> str:
        p = self.job.proto
        text = f"{self.job.id}  {self.job.method.upper()}  {p.spec.base_model}  {self.state}"
        if self.attempt > 1:
            text += f"  attempt {self.attempt}"
        if self.message and (self.state in ("QUEUED", "PAUSED") or self.state in TERMINAL):
            text += f"  {self.message}"
        return text

    def facts(self) -> dict[str, str]:
        """Named values for the line below the curve; what is not known is left out."""
        v = self.latest
        facts: dict[str, str] = {}
        if self.losses:
            values = [y for _, y in self.losses]
            facts |= {"loss": f"{values[-1]:.4f}", "first": f"{values[0]:.4f}", "best": f"{min(values):.4f}"}
        if self.eval_losses:
            facts["held-out"] = f"{self.eval_losses[-1][1]:.4f}"
        for key, name, spec in (
            ("reward", "reward", ".3f"),
            ("mean_token_accuracy", "accuracy", ".3f"),
            ("rewards/accuracies", "preferred", ".3f"),
            ("learning_rate", "lr", ".2e"),
        ):
            if key in v:
                facts[name] = number_text(v[key], spec)
        if "tokens_per_second" in v:
            facts["tokens/s"] = count_text(v["tokens_per_second"])
        if "memory_peak_bytes" in v:
            planned = self.job.proto.memory.total_bytes
            facts["memory"] = bytes_text(v["memory_peak_bytes"]) + (
                f" of {bytes_text(planned)} planned" if planned else ""
            )
        if self._started and self._now:
            facts["elapsed"] = duration_text(self._now - self._started)
        if self.step and self.state not in TERMINAL:
            facts["ETA"] = duration_text(self.seconds_left())
        return facts

    def html(self) -> str:
        facts = {"method": self.job.method.upper(), "model": self.job.proto.spec.base_model}
        if self.total_steps:
            facts["step"] = f"{self.step}/{self.total_steps}"
        body = _html.progress_bar(self.fraction) if self.total_steps else ""
        body += _html.line_chart({"loss": self.losses, "held-out loss": self.eval_losses}, x_max=self.total_steps)
        body += _html.line_chart(
            {"reward": self.rewards, "held-out reward": self.eval_rewards}, height=140, x_max=self.total_steps
        )
        notes = [("note", n) for n in self.notes]
        if self.message and self.state not in ("RUNNING", "SUCCEEDED"):
            notes.insert(0, ("why", self.message))
        return _html.card(self.job.id, self.state, facts | self.facts(), notes, body)
