"""What the daemon answers, as values without I/O: they print well, in a terminal and in a notebook."""

import dataclasses
import datetime
import itertools
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from . import _html
from ._errors import describe_row
from ._text import bytes_text, count_text, duration_text, table
from .v1 import adapters_pb2, daemon_pb2, datasets_pb2, events_pb2, jobs_pb2


def short_name(name: str) -> str:
    """ "x" from "jobs/x"."""
    return name.partition("/")[2] or name


def as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def server_info_text(info: daemon_pb2.ServerInfo) -> str:
    return f"finetuned {info.version}, worker {info.worker_state}"


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over the steps."""

    steps: list[int]
    values: list[float]
    times: list[float]  # Unix seconds


@dataclasses.dataclass
class Sample:
    """One generated text."""

    text: str = ""
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    finish_reason: str = ""  # "stop" or "length"
    prompt_tokens: int = 0
    tokens_per_second: float = 0.0  # of all samples together

    def add(self, piece: adapters_pb2.SampleResponse) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.logprobs += piece.logprobs
        if piece.finish_reason:
            self.finish_reason, self.prompt_tokens = piece.finish_reason, piece.prompt_tokens
            self.tokens_per_second = piece.tokens_per_second

    def __str__(self) -> str:
        return self.text


class Event:
    """One thing that happened to a job. `kind` is "metrics", "state_changed", "eval", "checkpoint", "log",
    "sample", "warning", "planned" or "gap"; `data` the message of that kind."""

    def __init__(self, proto: events_pb2.Event, resume_token: bytes) -> None:
        self.proto = proto
        self.resume_token = resume_token  # job.events(resume_token=...) gives what comes after this event

    @property
    def sequence(self) -> int:
        return self.proto.sequence

    @property
    def time(self) -> datetime.datetime:
        return self.proto.time.ToDatetime(datetime.UTC)

    @property
    def kind(self) -> str:
        return self.proto.WhichOneof("payload") or ""

    @property
    def data(self) -> Any:
        return getattr(self.proto, self.kind)

    @property
    def step(self) -> int | None:
        return getattr(self.data, "step", None)

    @property
    def values(self) -> Mapping[str, float]:
        """Of metrics and evaluations; empty otherwise."""
        return getattr(self.data, "values", {})

    def __repr__(self) -> str:
        return f"Event({self.sequence}, {self.kind}, {as_dict(self.data)})"


class Dataset:
    """Uploaded rows."""

    def __init__(self, proto: datasets_pb2.Dataset) -> None:
        self.proto = proto

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def rows(self) -> int:
        return self.proto.stats.rows

    @property
    def state(self) -> str:
        return datasets_pb2.Dataset.State.Name(self.proto.state)

    def __str__(self) -> str:
        p = self.proto
        lines = [f"{p.name}  {p.method} {p.format}  {self.rows} rows  {bytes_text(p.size_bytes)}  {self.state}"]
        for kind, found in (("error", p.errors), ("warning", p.warnings)):
            lines += [f"  {kind}: {describe_row(e)}: {e.message}" for e in found]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        p = self.proto
        facts = {
            "method": p.method,
            "format": p.format,
            "rows": f"{self.rows:,}",
            "size": bytes_text(p.size_bytes),
            "duplicate rows": str(p.stats.duplicate_rows),
        }
        notes = [("error", f"{describe_row(e)}: {e.message}") for e in p.errors]
        notes += [("warning", f"{describe_row(e)}: {e.message}") for e in p.warnings]
        return _html.card(p.name, self.state, facts, notes)


class Adapter:
    """A trained adapter."""

    def __init__(self, proto: adapters_pb2.Adapter) -> None:
        self.proto = proto

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def id(self) -> str:
        return short_name(self.proto.name)

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.proto.metrics)

    @property
    def local_path(self) -> str:
        """Where the daemon keeps it; empty over TCP."""
        return self.proto.local_path

    def __str__(self) -> str:
        loss = self.metrics.get("eval_loss")
        held_out = "" if loss is None else f"  held-out loss {loss:.4f}"
        return f"{self.name}  of {self.proto.base_model}  {bytes_text(self.proto.size_bytes)}{held_out}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        p = self.proto
        facts = {"base": p.base_model, "job": p.source_job, "size": bytes_text(p.size_bytes)}
        facts |= {k: f"{v:.4f}" for k, v in sorted(p.metrics.items())}
        return _html.card(p.name, "", facts, [])


class Plan:
    """What a job would need, before anything runs."""

    def __init__(self, proto: jobs_pb2.JobPlan) -> None:
        self.proto = proto

    @property
    def admissible(self) -> bool:
        """Whether submit() would take it."""
        return self.proto.admissible

    @property
    def total_bytes(self) -> int:
        return self.proto.memory.total_bytes

    @property
    def problems(self) -> list[str]:
        return [p.message for p in self.proto.problems]

    @property
    def suggestions(self) -> list[str]:
        """Settings that would fit."""
        return [s.message for s in self.proto.suggestions]

    @property
    def resolved_spec(self) -> dict[str, Any]:
        """The specification with every default filled in."""
        return as_dict(self.proto.resolved_spec)

    @property
    def seconds(self) -> float | None:
        """Estimate of the run; None: not known."""
        return self.proto.estimated_duration.ToTimedelta().total_seconds() or None

    def components(self) -> dict[str, int]:
        """Bytes of each part of the memory, largest first."""
        parts: dict[str, int] = {}
        for item in self.proto.memory.items:
            parts[item.component] = parts.get(item.component, 0) + item.bytes
        return dict(sorted(parts.items(), key=lambda kv: -kv[1]))

    def _notes(self) -> list[tuple[str, str]]:
        p = self.proto
        notes = [("chosen", f"{c.field} = {c.value}: {c.reason}") for c in p.choices]
        notes += [("warning", w) for w in p.warnings] + [("problem", m) for m in self.problems]
        return notes + [("fits", m) for m in self.suggestions]

    def _facts(self) -> dict[str, str]:
        p, stats = self.proto, self.proto.dataset_stats
        facts = {"memory": bytes_text(self.total_bytes)}
        if p.memory.budget_bytes:
            facts["budget"] = bytes_text(p.memory.budget_bytes)
        if stats.rows:
            facts["data"] = (
                f"{count_text(stats.rows)} rows, {count_text(stats.tokens)} tokens, "
                f"{count_text(stats.trained_tokens)} train, longest {stats.max_tokens}"
            )
        if self.seconds:
            facts["time"] = "about " + duration_text(self.seconds)
        return facts | {"disk": bytes_text(p.estimated_disk_bytes)}

    def __str__(self) -> str:
        rows = [("COMPONENT", "BYTES"), *((k, bytes_text(v)) for k, v in self.components().items())]
        lines = [table([*rows, ("total", bytes_text(self.total_bytes))])]
        lines += [f"{k} {v}" for k, v in self._facts().items() if k != "memory"]
        lines += [f"{kind}: {text}" for kind, text in self._notes()]
        return "\n".join([*lines, f"This job would be {'accepted' if self.admissible else 'refused'}."])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        state = "accepted" if self.admissible else "refused"
        bar = _html.stacked_bar(
            {k: float(v) for k, v in self.components().items()}, bytes_text, limit=float(self.proto.memory.budget_bytes)
        )
        return _html.card("Plan", state, self._facts(), self._notes(), bar)


class Preview:
    """Rendered rows and which of their tokens train (green)."""

    def __init__(self, proto: datasets_pb2.PreviewDatasetResponse) -> None:
        self.rows = list(proto.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, row: int) -> list[tuple[str, bool]]:
        """The text of a row in stretches that train or do not."""
        r = self.rows[row]
        grouped = itertools.groupby(zip(r.tokens, r.trained, strict=True), key=lambda pair: pair[1])
        return [("".join(token for token, _ in pairs), on) for on, pairs in grouped]

    def trained_text(self, row: int) -> str:
        """What the loss of this row is computed on."""
        return "".join(text for text, on in self.parts(row) if on)

    def __str__(self) -> str:
        out = []
        for i, r in enumerate(self.rows):
            verdict = r.drop_reason or f"{sum(r.trained)} of {len(r.tokens)} tokens train"
            out.append(f"row {r.index} (line {r.line}): {verdict}")
            out.append("".join(f"\033[32m{text}\033[0m" if on else text for text, on in self.parts(i)))
        return "\n".join(out)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(_html.token_row(f"row {r.index}", r.drop_reason, self.parts(i)) for i, r in enumerate(self.rows))
