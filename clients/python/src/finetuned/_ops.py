"""What the clients do, as operations (see _effects): each is written once for the blocking and the async client."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from . import _errors, _spec, _transfer
from ._effects import Backoff, Call, Emit, Open, Operation, Read, Sleep, call, is_transient
from ._values import Adapter, Dataset, Event, Plan, Preview, Sample, Series, server_info_text, short_name
from .v1 import adapters_pb2, daemon_pb2, datasets_pb2, events_pb2, jobs_pb2, rewards_pb2
from .v1.state_pb2 import JobState

SLOW = 60.0  # seconds for calls that read the data: CreateJob, PlanJob, PreviewDataset
STEPS_PER_CALL = 8000  # 8 MiB hold 40 metrics of so many steps
WATCH_PATIENCE = 300.0  # how long watch() waits for a daemon that is away


def resource(collection: str, name: str) -> str:
    """ "jobs/x" from "x" or "jobs/x"."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def hello() -> Operation[daemon_pb2.ServerInfo]:
    """The first call of a connection: fails at once when nobody answers."""
    return (yield Call("Daemon.GetServerInfo", daemon_pb2.GetServerInfoRequest(), 5.0))


def info() -> Operation[daemon_pb2.ServerInfo]:
    return (yield from call("Daemon.GetServerInfo", daemon_pb2.GetServerInfoRequest()))


def doctor(target: str) -> Operation[list[tuple[bool, str, str]]]:
    """(is it in order, what, advice) for everything that has to be in place."""
    found = yield from info()
    return [
        (True, f"daemon answers at {target}: {server_info_text(found)}", ""),
        (found.accepting_jobs, "accepts jobs", "it is draining; wait for its restart"),
        (found.worker_state != "failed", f"worker: {found.worker_state}", "see the daemon's log"),
        (bool(found.models), f"{len(found.models)} models configured", "add one under models: in its configuration"),
        *((m.available, f"model {short_name(m.name)}", m.problem) for m in found.models),
        *((True, f"device {d.index}: {d.product}", "") for d in found.devices),
    ]


def drain(grace: Any, pause_running: bool) -> Operation[None]:
    request = daemon_pb2.DrainServerRequest()
    _spec.fill(request, {"grace": grace, "pause_running": pause_running})
    yield from call("Daemon.DrainServer", request)


# Data.


def upload(data: Any, method: str, name: str | None, progress: _transfer.Progress | None) -> Operation[Dataset]:
    return Dataset((yield from _transfer.upload(data, method, name, progress)))


def _dataset_name(data: Any, method: str) -> Operation[str]:
    """Uploads what is not a dataset yet."""
    if isinstance(data, Dataset):
        return data.name
    if isinstance(data, str) and data.startswith("datasets/"):
        return data
    return (yield from upload(data, method, None, None)).name


def get_dataset(name: str) -> Operation[Dataset]:
    request = datasets_pb2.GetDatasetRequest(name=resource("datasets", name))
    return Dataset((yield from call("Datasets.GetDataset", request)))


def delete(collection: str, name: str, force: bool = False) -> Operation[None]:
    kind = {"jobs": "Job", "datasets": "Dataset", "adapters": "Adapter"}[collection]
    request: Any = {
        "jobs": jobs_pb2.DeleteJobRequest,
        "datasets": datasets_pb2.DeleteDatasetRequest,
        "adapters": adapters_pb2.DeleteAdapterRequest,
    }[collection](name=resource(collection, name))
    if force:
        request.force = True
    yield from call(f"{kind}s.Delete{kind}", request)


def preview(
    data: Any, model: str, rows: int, start_row: int, method: str, sft: Any, max_seq_length: int
) -> Operation[Preview]:
    request = datasets_pb2.PreviewDatasetRequest(
        base_model=_model(model), max_rows=rows, start_row=start_row, max_seq_length=max_seq_length
    )
    if sft is not None:
        _spec.fill(request.sft, sft, "sft")
    request.name = yield from _dataset_name(data, method)
    return Preview((yield from call("Datasets.PreviewDataset", request, SLOW)))


def _model(name: str) -> str:
    return name if "/" in name or "." in name else f"models/{name}"


def pages(method: str, request: Any, field: str, limit: int | None) -> Operation[list[Any]]:
    """All items of a listing, at most `limit`."""
    items: list[Any] = []
    request.page_size = min(limit or 1000, 1000)
    while True:
        response = yield from call(method, request)
        items += getattr(response, field)
        request.page_token = response.next_page_token
        if not request.page_token or (limit is not None and len(items) >= limit):
            return items[:limit]


def datasets(filter: str, limit: int | None) -> Operation[list[Dataset]]:
    found = yield from pages(
        "Datasets.ListDatasets", datasets_pb2.ListDatasetsRequest(filter=filter), "datasets", limit
    )
    return [Dataset(d) for d in found]


# Jobs.


def _complete(draft: _spec.JobDraft) -> Operation[jobs_pb2.Job]:
    for field, data in draft.data.items():
        setattr(draft.job.spec, field, (yield from _dataset_name(data, draft.method)))
    return draft.job


def submit(given: Any, keywords: Mapping[str, Any]) -> Operation[jobs_pb2.Job]:
    draft = _spec.make_draft(given, keywords)
    request = jobs_pb2.CreateJobRequest(job_id=draft.job_id)
    request.job.CopyFrom((yield from _complete(draft)))
    return (yield from call("Jobs.CreateJob", request, SLOW))


def plan(given: Any, keywords: Mapping[str, Any]) -> Operation[Plan]:
    job = yield from _complete(_spec.make_draft(given, keywords))
    return Plan((yield from call("Jobs.PlanJob", jobs_pb2.PlanJobRequest(job=job), SLOW)))


def get_job(name: str) -> Operation[jobs_pb2.Job]:
    return (yield from call("Jobs.GetJob", jobs_pb2.GetJobRequest(name=resource("jobs", name))))


def jobs(filter: str, limit: int | None) -> Operation[list[jobs_pb2.Job]]:
    return (yield from pages("Jobs.ListJobs", jobs_pb2.ListJobsRequest(filter=filter), "jobs", limit))


def act(verb: str, name: str, **fields: Any) -> Operation[jobs_pb2.Job]:
    """act("Pause", "jobs/x"): one of the calls that change a job's state."""
    request = getattr(jobs_pb2, f"{verb}JobRequest")(name=name)
    _spec.fill(request, {k: v for k, v in fields.items() if v})
    return (yield from call(f"Jobs.{verb}Job", request))


def update(
    name: str, display_name: str | None, labels: Mapping[str, str] | None, scheduling: Any, ttl: Any
) -> Operation[jobs_pb2.Job]:
    given = {"display_name": display_name, "labels": labels, "scheduling": scheduling, "ttl": ttl}
    given = {k: v for k, v in given.items() if v is not None}
    request = jobs_pb2.UpdateJobRequest()
    _spec.fill(request.job, given)
    request.job.name = name
    request.update_mask.paths.extend(given)
    return (yield from call("Jobs.UpdateJob", request))


def checkpoints(name: str) -> Operation[list[jobs_pb2.Checkpoint]]:
    return (yield from pages("Jobs.ListCheckpoints", jobs_pb2.ListCheckpointsRequest(parent=name), "checkpoints", None))


@dataclasses.dataclass
class WatchOptions:
    types: Sequence[str] = ()
    from_now: bool = False
    metric_interval: float | None = None
    resume_token: bytes = b""


def watch(name: str, options: WatchOptions) -> Operation[None]:
    """Emits every event once, in order, until the job has ended; goes on at its token after a broken connection
    or a restart of the daemon."""
    request = events_pb2.WatchJobRequest(
        name=name, types=options.types, resume_token=options.resume_token, from_now=options.from_now
    )
    if options.metric_interval:
        request.metric_interval.FromNanoseconds(int(options.metric_interval * 1e9))
    backoff = Backoff(WATCH_PATIENCE)
    while True:
        try:
            stream = yield Open("Jobs.WatchJob", request)
            while (response := (yield Read(stream))) is not None:
                backoff.reset()
                if response.resume_token:
                    request.resume_token, request.from_now = response.resume_token, False
                if not response.event.HasField("heartbeat"):
                    yield Emit(Event(response.event, response.resume_token))
            return
        except _errors.FinetunedError as error:
            delay = backoff.delay(error.retry_after) if is_transient(error) else None
            if delay is None:
                raise
        yield Sleep(delay)


def wait(name: str) -> Operation[jobs_pb2.Job]:
    """The job once it has ended. Run it: what it emits on the way does not matter."""
    yield from watch(name, WatchOptions(types=("state_changed",)))
    return (yield from get_job(name))


def events(name: str, type: str) -> Operation[list[Event]]:
    """What the log holds now."""
    request = jobs_pb2.ListEventsRequest(parent=name, filter=f"type = {type}" if type else "")
    return [Event(e, b"") for e in (yield from pages("Jobs.ListEvents", request, "events", None))]


def series(
    name: str, keys: Sequence[str], min_step: int, max_step: int, max_points: int
) -> Operation[dict[str, Series]]:
    request = jobs_pb2.QueryMetricsRequest(
        parent=name, keys=keys, min_step=min_step, max_step=max_step, max_points=max_points
    )
    response = yield from call("Jobs.QueryMetrics", request)
    return {s.key: Series(list(s.steps), list(s.values), list(s.wall_time_seconds)) for s in response.series}


def full_series(name: str, keys: Sequence[str]) -> Operation[dict[str, Series]]:
    """Every point, in parts that fit into a message however long the job is."""
    last_step = (yield from get_job(name)).progress.step
    whole: dict[str, Series] = {}
    for first in range(0, last_step + 1, STEPS_PER_CALL):
        part = yield from series(name, keys, first, first + STEPS_PER_CALL - 1, STEPS_PER_CALL)
        for key, more in part.items():
            known = whole.setdefault(key, Series([], [], []))
            known.steps.extend(more.steps)
            known.values.extend(more.values)
            known.times.extend(more.times)
    return whole


# Rewards.


def evaluate_reward(
    reward: Any, completions: Sequence[str], prompt: Any, columns: Mapping[str, Sequence[str]]
) -> Operation[list[float]]:
    """NaN where the reward abstains."""
    request = rewards_pb2.EvaluateRewardRequest()
    if isinstance(reward, str):
        request.remote = reward
    else:
        _spec.fill(request.builtin, reward, "reward")
    for name, values in columns.items():
        if isinstance(values, str) or len(values) != len(completions):
            raise _errors.InvalidArgument(f"columns: {name} needs a list of one value per completion")
    for i, completion in enumerate(completions):
        row = {name: values[i] for name, values in columns.items()}
        request.items.add(completion_index=i, prompt_json=json.dumps(prompt), completion=completion, columns=row)
    return list((yield from call("Rewards.EvaluateReward", request, SLOW)).values)


# Adapters.


def get_adapter(name: str) -> Operation[Adapter]:
    """Of "adapters/x", or the result of job "x"."""
    if name.startswith("jobs/"):
        job = yield from get_job(name)
        if not job.output_adapter:
            raise _errors.WrongState(f"{job.name} is {JobState.Name(job.state)} and has no adapter yet")
        name = job.output_adapter
    request = adapters_pb2.GetAdapterRequest(name=resource("adapters", name))
    return Adapter((yield from call("Adapters.GetAdapter", request)))


def adapters(filter: str, limit: int | None) -> Operation[list[Adapter]]:
    found = yield from pages(
        "Adapters.ListAdapters", adapters_pb2.ListAdaptersRequest(filter=filter), "adapters", limit
    )
    return [Adapter(a) for a in found]


def download(name: str, to: str | pathlib.Path | None, progress: _transfer.Progress | None) -> Operation[pathlib.Path]:
    adapter = yield from get_adapter(name)
    folder = pathlib.Path(to).expanduser() if to is not None else pathlib.Path(adapter.id)
    return (yield from _transfer.download(adapter.proto, folder, progress))


def sample_request(target: str, prompt: str, options: Mapping[str, Any]) -> adapters_pb2.SampleRequest:
    request = adapters_pb2.SampleRequest(prompt=prompt)
    if target.startswith("adapters/"):
        request.adapter = target
    elif "/checkpoints/" in target:
        request.checkpoint = target
    else:
        request.base_model = _model(target)
    _spec.fill(request, options)
    return request


def stream_sample(target: str, prompt: str, options: Mapping[str, Any]) -> Operation[None]:
    """Emits the pieces as they are made. Not repeated after a failure: pieces have been seen already."""
    if target.startswith("jobs/") and "/checkpoints/" not in target:
        target = (yield from get_adapter(target)).name
    stream = yield Open("Adapters.Sample", sample_request(target, prompt, options))
    while (piece := (yield Read(stream))) is not None:
        yield Emit(piece)


def collect(pieces: Sequence[adapters_pb2.SampleResponse]) -> list[Sample]:
    """Pieces of a stream, put together."""
    found: dict[int, Sample] = {}
    for piece in pieces:
        found.setdefault(piece.index, Sample()).add(piece)
    return [found[i] for i in sorted(found)]
