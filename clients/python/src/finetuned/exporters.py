"""Copies a job's history to experiment trackers, from its event log: complete, each step once, also long after the
job has ended or while it runs.

    finetuned.exporters.to_tensorboard(job, "runs")
    finetuned.exporters.to_mlflow(job, experiment="names")
    finetuned.exporters.to_wandb(job, project="names")

Each follows the job until it ends unless follow=False. A sink can also be fed by hand: `sink.write(event)`.
"""

import os
import pathlib
import socket
import struct
import time
from types import TracebackType
from typing import Any, Protocol

from . import _metrics
from ._crc32c import crc32c
from ._errors import MissingDependency
from ._job_view import JobView
from ._values import Event
from .client import Job


class Sink(Protocol):
    """Takes events of one job."""

    def write(self, event: Event) -> None: ...
    def close(self, state: str) -> None: ...


def export(job: Job, sink: Sink, follow: bool = True) -> None:
    """Feeds `sink` the events so far and, with `follow`, those to come."""
    state = "KILLED"
    try:
        for event in job.events() if follow else job.logs():
            sink.write(event)
        state = job.refresh().state
    finally:
        sink.close(state)


def settings(job: JobView) -> dict[str, str]:
    """What ran, flat: {"lora.rank": "16", ...}."""
    return _metrics.flat(job.resolved_spec)


def to_tensorboard(job: Job, logdir: str | pathlib.Path, follow: bool = True) -> pathlib.Path:
    """Writes an event file below logdir/JOB; needs nothing installed. Returns the folder."""
    sink = TensorBoardSink(pathlib.Path(logdir) / job.id)
    export(job, sink, follow)
    return sink.folder


def to_mlflow(job: Job, experiment: str | None = None, tracking_uri: str | None = None, follow: bool = True) -> str:
    """Logs a run with settings and metrics; returns the run's id."""
    sink = MlflowSink(job, experiment, tracking_uri)
    export(job, sink, follow)
    return sink.run_id


def to_wandb(job: Job, project: str | None = None, follow: bool = True, **init: Any) -> None:
    """Logs a run to Weights & Biases; `init` goes to wandb.init (entity, mode, dir, ...)."""
    export(job, WandbSink(job, project, **init), follow)


class TensorBoardSink:
    """TensorBoard's event file: TFRecord frames around Event messages, written without TensorFlow.

    Frame: length (u64), masked CRC-32C of it, data, masked CRC-32C of it. Event: 1 wall_time (double), 2 step
    (int64), 3 file_version, 5 summary { 1 value { 1 tag, 2 simple_value (float) } }.
    Source: tensorflow/core/util/event.proto, tensorflow/core/lib/io/record_writer.cc.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{id(self)}"
        self._file = open(folder / name, "wb")
        self._frame(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))

    def __enter__(self) -> "TensorBoardSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close("")

    def write(self, event: Event) -> None:
        if event.step is None or not event.values:
            return
        values = b"".join(
            _bytes(1, _bytes(1, _tag(k).encode()) + _float(2, v)) for k, v in sorted(event.values.items())
        )
        self._frame(_double(1, event.time.timestamp()) + _varint(2 << 3) + _varint(event.step) + _bytes(5, values))

    def close(self, state: str) -> None:
        self._file.close()

    def _frame(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked_crc(length) + data + _masked_crc(data))


def _tag(key: str) -> str:
    """Held-out metrics in a group of their own, as trainers do."""
    return "eval/" + key.removeprefix("eval_") if key.startswith("eval_") else "train/" + key


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


class MlflowSink:
    """An MLflow run; a step's metrics go in one call."""

    _STATUS = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED", "KILLED": "KILLED"}

    def __init__(self, job: JobView, experiment: str | None, tracking_uri: str | None) -> None:
        try:
            import mlflow
            from mlflow.entities import Metric, Param
        except ImportError:
            raise MissingDependency("to_mlflow() needs MLflow: pip install 'finetuned[mlflow]'") from None
        self._metric: Any = Metric
        self._client: Any = mlflow.MlflowClient(tracking_uri)
        name = experiment or "finetuned"
        found = self._client.get_experiment_by_name(name)
        parent = found.experiment_id if found is not None else self._client.create_experiment(name)
        tags = {f"label.{k}": v for k, v in job.labels.items()} | {
            "finetuned.job": job.name,
            "finetuned.uid": job.proto.uid,
        }
        self.run_id: str = self._client.create_run(parent, run_name=job.id, tags=tags).info.run_id
        self._client.log_batch(self.run_id, params=[Param(k, v[:6000]) for k, v in settings(job).items()])

    def write(self, event: Event) -> None:
        if event.step is None or not event.values:
            return
        at = int(event.time.timestamp() * 1000)
        self._client.log_batch(
            self.run_id, metrics=[self._metric(k, v, at, event.step) for k, v in event.values.items()]
        )

    def close(self, state: str) -> None:
        if state in self._STATUS:
            self._client.set_terminated(self.run_id, self._STATUS[state])


class WandbSink:
    """A Weights & Biases run."""

    def __init__(self, job: JobView, project: str | None, **init: Any) -> None:
        try:
            import wandb
        except ImportError:
            raise MissingDependency("to_wandb() needs wandb: pip install 'finetuned[wandb]'") from None
        self._run: Any = wandb.init(
            project=project or "finetuned",
            name=job.id,
            id=init.pop("id", job.proto.uid),
            config=settings(job),
            tags=[f"{k}={v}" for k, v in job.labels.items()],
            **init,
        )
        # Steps repeat after a resumed attempt and evaluations come later: own axis instead of wandb's counter.
        self._run.define_metric("*", step_metric="step")

    def write(self, event: Event) -> None:
        if event.step is not None and event.values:
            self._run.log({"step": event.step, **event.values})

    def close(self, state: str) -> None:
        self._run.finish(exit_code=0 if state in ("SUCCEEDED", "RUNNING", "QUEUED") else 1)
