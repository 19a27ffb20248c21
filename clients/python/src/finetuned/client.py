"""The blocking client. `finetuned.aio` has the same in asyncio; the logic of both stands in _ops."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Unpack

from . import _connect, _effects, _metrics, _ops, _screen
from ._errors import JobFailed
from ._job_view import JobView, jobs_html
from ._panel import Panel
from ._rows import RowData
from ._spec import JobFields
from ._transfer import Progress
from ._values import Adapter, Dataset, Event, Plan, Preview, Sample, Series, server_info_text
from .rewards import Reward, RewardServer
from .specs import BuiltinReward, Duration, JobSpec, Scheduling, SftSpec
from .v1 import daemon_pb2, jobs_pb2


def connect(
    server: str | None = None,
    *,
    token: str | None = None,
    token_file: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> "Client":
    """Connects to the daemon; DaemonUnreachable when none answers.

    `server` is "unix:///path", "/path" or "host:port"; by default $FINETUNED_SERVER, else the default socket. Over
    TCP: `token` or `token_file` (bearer token), `ca` (PEM of the daemon's certificate authority: TLS), `cert` and
    `key` (client certificate: mTLS).
    """
    client = Client(_connect.find(server, token, token_file, ca, cert, key))
    try:
        client._do(_ops.hello())
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """A connection to the daemon. Any number of threads may use it."""

    def __init__(self, address: _connect.Address) -> None:
        self.address = address
        self._driver = _effects.Blocking(address.connection(asynchronous=False))
        self._do = self._driver.run

    def close(self) -> None:
        self._driver.connection.channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address.target!r})"

    def _repr_html_(self) -> str:
        return f"<div><b>{server_info_text(self.info())}</b> at {self.address.target}</div>" + jobs_html(
            self.jobs(limit=10)
        )

    def info(self) -> daemon_pb2.ServerInfo:
        """Version, devices, models and limits of the daemon."""
        return self._do(_ops.info())

    def doctor(self) -> list[tuple[bool, str, str]]:
        """(is it in order, what, advice) for everything that has to be in place."""
        return self._do(_ops.doctor(self.address.target))

    def drain(self, grace: Duration = 60.0, pause_running: bool = False) -> None:
        """Stops the daemon: no new jobs, the running one writes a checkpoint (`grace`: for this long at most) and is
        queued for the next start, or left PAUSED."""
        self._do(_ops.drain(grace, pause_running))

    # Jobs.

    def submit(
        self, job: JobSpec | Mapping[str, Any] | str | pathlib.Path | None = None, /, **fields: Unpack[JobFields]
    ) -> "Job":
        """Queues a job, after uploading its data. `job` is a JobSpec, a dict or the path of a job file; keywords win
        over it. InvalidArgument names every wrong field, VramBudgetExceeded says what would fit."""
        return Job(self, self._do(_ops.submit(job, fields)))

    def plan(
        self, job: JobSpec | Mapping[str, Any] | str | pathlib.Path | None = None, /, **fields: Unpack[JobFields]
    ) -> Plan:
        """Memory, time and disk of a job, without running it. Arguments as for submit()."""
        return self._do(_ops.plan(job, fields))

    def job(self, name: str) -> "Job":
        return Job(self, self._do(_ops.get_job(name)))

    def jobs(self, filter: str = "", limit: int | None = 50) -> list["Job"]:
        """Newest first. `filter`: "state = RUNNING AND labels.team = nlp". `limit` None: all."""
        return [Job(self, j) for j in self._do(_ops.jobs(filter, limit))]

    def delete_job(self, name: str, force: bool = False) -> None:
        """`force`: also the adapters it made."""
        self._do(_ops.delete("jobs", name, force))

    # Data.

    def upload(
        self, data: RowData, *, method: str = "sft", name: str | None = None, progress: Progress | None = None
    ) -> Dataset:
        """Sends rows: a list of dicts, a DataFrame, a Hugging Face dataset, the path of a JSONL or Parquet file. The
        same rows again cost nothing. DatasetInvalid has line and field of what is wrong."""
        return self._do(_ops.upload(data, method, name, progress))

    def dataset(self, name: str) -> Dataset:
        return self._do(_ops.get_dataset(name))

    def datasets(self, filter: str = "", limit: int | None = 50) -> list[Dataset]:
        return self._do(_ops.datasets(filter, limit))

    def delete_dataset(self, name: str) -> None:
        self._do(_ops.delete("datasets", name))

    def preview(
        self,
        data: RowData | Dataset,
        model: str,
        *,
        rows: int = 3,
        start_row: int = 0,
        method: str = "sft",
        sft: SftSpec | Mapping[str, Any] | None = None,
        max_seq_length: int = 0,
    ) -> Preview:
        """Rows as the model will see them, and which tokens train."""
        return self._do(_ops.preview(data, model, rows, start_row, method, sft, max_seq_length))

    # Rewards.

    def evaluate_reward(
        self,
        reward: str | BuiltinReward | Mapping[str, Any],
        completions: Sequence[str],
        *,
        prompt: Any = "",
        columns: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> list[float]:
        """Tries a reward on given completions before a job spends time on it: a built-in one, or by name one that
        serve_rewards() serves. `columns`: of the training rows, one value per completion. NaN: abstains."""
        return self._do(_ops.evaluate_reward(reward, completions, prompt, columns))

    def serve_rewards(self, *rewards: Reward, in_flight: int = 2) -> RewardServer:
        """As Job.serve_rewards, for trials and every job that names these rewards."""
        return RewardServer(self.address, "", rewards, in_flight)

    # Adapters.

    def adapter(self, name: str) -> Adapter:
        return self._do(_ops.get_adapter(name))

    def adapters(self, filter: str = "", limit: int | None = 50) -> list[Adapter]:
        return self._do(_ops.adapters(filter, limit))

    def delete_adapter(self, name: str) -> None:
        self._do(_ops.delete("adapters", name))

    def download(
        self, name: str, to: str | pathlib.Path | None = None, *, progress: Progress | None = None
    ) -> pathlib.Path:
        """An adapter ("adapters/x") or a job's result ("jobs/x") as a PEFT folder; returns the folder. An interrupted
        download goes on where it stopped."""
        return self._do(_ops.download(name, to, progress))

    def sample(self, target: str, prompt: str, **options: Any) -> list[Sample]:
        """Generates with an adapter ("adapters/x"), a job's result ("jobs/x"), a checkpoint or a model. Options:
        max_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, num_samples, stop, system_prompt,
        raw."""
        return _ops.collect(list(self._driver.iterate(_ops.stream_sample(target, prompt, options))))

    def stream(self, target: str, prompt: str, **options: Any) -> Iterator[str]:
        """The same for one sample, piece by piece as it is made."""
        for piece in self._driver.iterate(_ops.stream_sample(target, prompt, options)):
            yield piece.text


class Job(JobView):
    """A job. Its properties show the last known state; refresh() asks again."""

    def __init__(self, client: Client, proto: jobs_pb2.Job) -> None:
        super().__init__(proto)
        self.client = client

    def _became(self, operation: _effects.Operation[jobs_pb2.Job]) -> "Job":
        self.proto = self.client._do(operation)
        return self

    def refresh(self) -> "Job":
        return self._became(_ops.get_job(self.name))

    def why(self) -> str:
        """Why it waits, is paused or failed."""
        return self.refresh().why_text()

    def pause(self, grace: Duration | None = None) -> "Job":
        """Writes a checkpoint (`grace`: for this long at most) and frees the GPU."""
        return self._became(_ops.act("Pause", self.name, grace_period=grace))

    def resume(self, checkpoint: str = "") -> "Job":
        """Queues it again, from its last checkpoint or a named one."""
        return self._became(_ops.act("Resume", self.name, checkpoint=checkpoint))

    def cancel(self, reason: str = "") -> "Job":
        """Stops it for good, without a result."""
        return self._became(_ops.act("Cancel", self.name, reason=reason))

    def stop(self) -> "Job":
        """Finishes early: evaluates, exports, SUCCEEDED."""
        return self._became(_ops.act("Stop", self.name))

    def retry(self, checkpoint: str = "") -> "Job":
        """Queues a failed job again."""
        return self._became(_ops.act("Retry", self.name, checkpoint=checkpoint))

    def checkpoint(self) -> "Job":
        """Writes a checkpoint now."""
        return self._became(_ops.act("Checkpoint", self.name))

    def update(
        self,
        *,
        display_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        scheduling: Scheduling | Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
    ) -> "Job":
        """Changes what may be changed; the specification may not."""
        return self._became(_ops.update(self.name, display_name, labels, scheduling, ttl))

    def delete(self, force: bool = False) -> None:
        """`force`: also its adapter."""
        self.client.delete_job(self.name, force)

    # Following it.

    def events(
        self,
        *,
        types: Sequence[str] = (),
        from_now: bool = False,
        metric_interval: float | None = None,
        resume_token: bytes = b"",
    ) -> Iterator[Event]:
        """Every event, from the first to the end of the job, each once; a broken connection and a restart of the
        daemon are bridged. `types`: only these kinds; `metric_interval`: seconds between metrics."""
        options = _ops.WatchOptions(types, from_now, metric_interval, resume_token)
        return self.client._driver.iterate(_ops.watch(self.name, options))

    def watch(self, mode: str = "auto", on_event: Callable[[Event], None] | None = None) -> None:
        """Shows the job until it ends: a live chart in a notebook, a live bar in a terminal, else plain lines (`mode`:
        "notebook", "rich", "plain", "quiet"). Interrupting it leaves the job alone."""
        try:
            with _screen.choose(mode, self) as screen:
                for event in self.events():
                    screen.show(event)
                    if on_event is not None:
                        on_event(event)
        except KeyboardInterrupt:
            print("Detached; the job goes on. Watch it again: job.watch()")
        self.refresh()

    def panel(self) -> Panel:
        """As watch() in a notebook, but the next cell can run meanwhile; buttons pause, resume, finish and cancel."""
        return Panel(self)

    def wait(self, *, check: bool = True) -> "Job":
        """Blocks until it ends. JobFailed when it did not succeed, unless `check` is False."""
        self._became(_ops.wait(self.name))
        if check and self.state != "SUCCEEDED":
            raise JobFailed(self, self.why_text(), self.reason)
        return self

    def logs(self, type: str = "") -> list[Event]:
        """The events so far, or those of one kind."""
        return self.client._do(_ops.events(self.name, type))

    # Results.

    def series(self, *keys: str, min_step: int = 0, max_step: int = 0, max_points: int = 0) -> dict[str, Series]:
        """The metrics, as plain lists; without keys all of them. More than `max_points` (0: 1000) are thinned by the
        daemon so that the curve keeps its shape."""
        return self.client._do(_ops.series(self.name, keys, min_step, max_step, max_points))

    def metrics(self, *keys: str) -> Any:
        """The metrics as a pandas DataFrame: a row per step, a column per metric; without keys all of them."""
        return _metrics.frame(self.client._do(_ops.full_series(self.name, keys)))

    def plot(self, *keys: str, ax: Any = None) -> Any:
        """Draws metrics (by default the losses) with matplotlib; returns the axes."""
        return _metrics.plot_series({self.id: self.series(*(keys or _metrics.LOSSES))}, ax)

    def checkpoints(self) -> list[jobs_pb2.Checkpoint]:
        return self.client._do(_ops.checkpoints(self.name))

    def download(self, to: str | pathlib.Path | None = None, *, progress: Progress | None = None) -> pathlib.Path:
        """The adapter, as a PEFT folder."""
        return self.client.download(self.name, to, progress=progress)

    def sample(self, prompt: str, **options: Any) -> list[Sample]:
        """Generates with the adapter; options as for Client.sample."""
        return self.client.sample(self.name, prompt, **options)

    def serve_rewards(self, *rewards: Reward, in_flight: int = 2) -> RewardServer:
        """Scores this GRPO job's completions here, in a background thread: `with job.serve_rewards(f): job.watch()`."""
        return RewardServer(self.client.address, self.name, rewards, in_flight)


def compare(jobs: Sequence[Job], key: str = "loss") -> _metrics.Comparison:
    """Jobs side by side: the settings in which they differ, how they ended, and the curves of `key`."""
    return _metrics.Comparison([(j.refresh(), j.series()) for j in jobs], key)
