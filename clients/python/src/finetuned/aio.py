"""The asyncio twin of `finetuned`: the same names, with await.

client = await finetuned.aio.connect()
job = await client.submit(model="smollm2", data=rows)
async for event in job.events(): ...
"""

import pathlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Unpack

from . import _connect, _effects, _metrics, _ops, _screen
from ._errors import JobFailed
from ._job_view import JobView
from ._rows import RowData
from ._spec import JobFields
from ._transfer import Progress
from ._values import Adapter, Dataset, Event, Plan, Preview, Sample, Series
from .rewards import Reward, RewardServer
from .specs import BuiltinReward, Duration, JobSpec, Scheduling, SftSpec
from .v1 import daemon_pb2, jobs_pb2


async def connect(
    server: str | None = None,
    *,
    token: str | None = None,
    token_file: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> "Client":
    """As finetuned.connect()."""
    client = Client(_connect.find(server, token, token_file, ca, cert, key))
    try:
        await client._do(_ops.hello())
    except BaseException:
        await client.close()
        raise
    return client


class Client:
    """A connection to the daemon, for one event loop. Methods as in finetuned.Client."""

    def __init__(self, address: _connect.Address) -> None:
        self.address = address
        self._driver = _effects.Async(address.connection(asynchronous=True))
        self._do = self._driver.run

    async def close(self) -> None:
        await self._driver.connection.channel.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"aio.Client({self.address.target!r})"

    async def info(self) -> daemon_pb2.ServerInfo:
        return await self._do(_ops.info())

    async def doctor(self) -> list[tuple[bool, str, str]]:
        return await self._do(_ops.doctor(self.address.target))

    async def drain(self, grace: Duration = 60.0, pause_running: bool = False) -> None:
        await self._do(_ops.drain(grace, pause_running))

    async def submit(
        self, job: JobSpec | Mapping[str, Any] | str | pathlib.Path | None = None, /, **fields: Unpack[JobFields]
    ) -> "Job":
        return Job(self, await self._do(_ops.submit(job, fields)))

    async def plan(
        self, job: JobSpec | Mapping[str, Any] | str | pathlib.Path | None = None, /, **fields: Unpack[JobFields]
    ) -> Plan:
        return await self._do(_ops.plan(job, fields))

    async def job(self, name: str) -> "Job":
        return Job(self, await self._do(_ops.get_job(name)))

    async def jobs(self, filter: str = "", limit: int | None = 50) -> list["Job"]:
        return [Job(self, j) for j in await self._do(_ops.jobs(filter, limit))]

    async def delete_job(self, name: str, force: bool = False) -> None:
        await self._do(_ops.delete("jobs", name, force))

    async def upload(
        self, data: RowData, *, method: str = "sft", name: str | None = None, progress: Progress | None = None
    ) -> Dataset:
        return await self._do(_ops.upload(data, method, name, progress))

    async def dataset(self, name: str) -> Dataset:
        return await self._do(_ops.get_dataset(name))

    async def datasets(self, filter: str = "", limit: int | None = 50) -> list[Dataset]:
        return await self._do(_ops.datasets(filter, limit))

    async def delete_dataset(self, name: str) -> None:
        await self._do(_ops.delete("datasets", name))

    async def preview(
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
        return await self._do(_ops.preview(data, model, rows, start_row, method, sft, max_seq_length))

    async def evaluate_reward(
        self,
        reward: str | BuiltinReward | Mapping[str, Any],
        completions: Sequence[str],
        *,
        prompt: Any = "",
        columns: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> list[float]:
        return await self._do(_ops.evaluate_reward(reward, completions, prompt, columns))

    def serve_rewards(self, *rewards: Reward, in_flight: int = 2) -> RewardServer:
        return RewardServer(self.address, "", rewards, in_flight)

    async def adapter(self, name: str) -> Adapter:
        return await self._do(_ops.get_adapter(name))

    async def adapters(self, filter: str = "", limit: int | None = 50) -> list[Adapter]:
        return await self._do(_ops.adapters(filter, limit))

    async def delete_adapter(self, name: str) -> None:
        await self._do(_ops.delete("adapters", name))

    async def download(
        self, name: str, to: str | pathlib.Path | None = None, *, progress: Progress | None = None
    ) -> pathlib.Path:
        return await self._do(_ops.download(name, to, progress))

    async def sample(self, target: str, prompt: str, **options: Any) -> list[Sample]:
        return _ops.collect([p async for p in self._driver.iterate(_ops.stream_sample(target, prompt, options))])

    async def stream(self, target: str, prompt: str, **options: Any) -> AsyncIterator[str]:
        async for piece in self._driver.iterate(_ops.stream_sample(target, prompt, options)):
            yield piece.text


class Job(JobView):
    """A job. Methods as in finetuned.Job."""

    def __init__(self, client: Client, proto: jobs_pb2.Job) -> None:
        super().__init__(proto)
        self.client = client

    async def _became(self, operation: _effects.Operation[jobs_pb2.Job]) -> "Job":
        self.proto = await self.client._do(operation)
        return self

    async def refresh(self) -> "Job":
        return await self._became(_ops.get_job(self.name))

    async def why(self) -> str:
        return (await self.refresh()).why_text()

    async def pause(self, grace: Duration | None = None) -> "Job":
        return await self._became(_ops.act("Pause", self.name, grace_period=grace))

    async def resume(self, checkpoint: str = "") -> "Job":
        return await self._became(_ops.act("Resume", self.name, checkpoint=checkpoint))

    async def cancel(self, reason: str = "") -> "Job":
        return await self._became(_ops.act("Cancel", self.name, reason=reason))

    async def stop(self) -> "Job":
        return await self._became(_ops.act("Stop", self.name))

    async def retry(self, checkpoint: str = "") -> "Job":
        return await self._became(_ops.act("Retry", self.name, checkpoint=checkpoint))

    async def checkpoint(self) -> "Job":
        return await self._became(_ops.act("Checkpoint", self.name))

    async def update(
        self,
        *,
        display_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        scheduling: Scheduling | Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
    ) -> "Job":
        return await self._became(_ops.update(self.name, display_name, labels, scheduling, ttl))

    async def delete(self, force: bool = False) -> None:
        await self.client.delete_job(self.name, force)

    def events(
        self,
        *,
        types: Sequence[str] = (),
        from_now: bool = False,
        metric_interval: float | None = None,
        resume_token: bytes = b"",
    ) -> AsyncIterator[Event]:
        options = _ops.WatchOptions(types, from_now, metric_interval, resume_token)
        return self.client._driver.iterate(_ops.watch(self.name, options))

    async def watch(self, mode: str = "auto", on_event: Callable[[Event], None] | None = None) -> None:
        with _screen.choose(mode, self) as screen:
            async for event in self.events():
                screen.show(event)
                if on_event is not None:
                    on_event(event)
        await self.refresh()

    async def wait(self, *, check: bool = True) -> "Job":
        await self._became(_ops.wait(self.name))
        if check and self.state != "SUCCEEDED":
            raise JobFailed(self, self.why_text(), self.reason)
        return self

    async def logs(self, type: str = "") -> list[Event]:
        return await self.client._do(_ops.events(self.name, type))

    async def series(self, *keys: str, min_step: int = 0, max_step: int = 0, max_points: int = 0) -> dict[str, Series]:
        return await self.client._do(_ops.series(self.name, keys, min_step, max_step, max_points))

    async def metrics(self, *keys: str) -> Any:
        return _metrics.frame(await self.client._do(_ops.full_series(self.name, keys)))

    async def plot(self, *keys: str, ax: Any = None) -> Any:
        return _metrics.plot_series({self.id: await self.series(*(keys or _metrics.LOSSES))}, ax)

    async def checkpoints(self) -> list[jobs_pb2.Checkpoint]:
        return await self.client._do(_ops.checkpoints(self.name))

    async def download(self, to: str | pathlib.Path | None = None, *, progress: Progress | None = None) -> pathlib.Path:
        return await self.client.download(self.name, to, progress=progress)

    async def sample(self, prompt: str, **options: Any) -> list[Sample]:
        return await self.client.sample(self.name, prompt, **options)

    def serve_rewards(self, *rewards: Reward, in_flight: int = 2) -> RewardServer:
        """Runs in a thread of its own; a reward may be a coroutine function."""
        return RewardServer(self.client.address, self.name, rewards, in_flight)


async def compare(jobs: Sequence[Job], key: str = "loss") -> _metrics.Comparison:
    return _metrics.Comparison([(await j.refresh(), await j.series()) for j in jobs], key)
