"""Rewards computed here, for GRPO jobs there: the process dials in to the daemon, gets batches of completions on
lease and sends scores back. It works through NAT and ssh -L, survives restarts of the daemon, and any number of
processes may serve the same job.
"""

import asyncio
import concurrent.futures
import dataclasses
import hashlib
import inspect
import json
import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, overload

import grpc

from . import _connect, _effects, _errors, _ops
from .v1 import rewards_pb2

log = logging.getLogger("finetuned.rewards")

_UNKNOWN = 2  # google.rpc.Code


@dataclasses.dataclass(frozen=True)
class Reward:
    """A scoring function with its name and weight; made by @reward. It can still be called as it was written."""

    function: Callable[..., Any]
    name: str
    weight: float = 1.0
    batch: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def score(self, items: Sequence[rewards_pb2.RewardItem]) -> list[float]:
        """One value per item; NaN: abstains. Whatever the function raises comes out."""
        if self.batch:
            rows = [_arguments(item) for item in items]
            names = {k for row in rows for k in row}
            columns = {_PLURAL.get(k, k): [row.get(k) for row in rows] for k in names}
            values = _finished(self.function(**_wanted(self, columns)))
            if not isinstance(values, Iterable) or isinstance(values, str):
                raise TypeError(f"reward {self.name} returned {values!r:.100}; with batch=True it returns a list of numbers")
            values = list(values)
            if len(values) != len(items):
                raise ValueError(f"reward {self.name} returned {len(values)} values for {len(items)} completions")
        else:
            values = [_finished(self._call_one(_arguments(item))) for item in items]
        return [self._number(v) for v in values]

    def _number(self, value: Any) -> float:
        if value is None:
            return math.nan
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise TypeError(f"reward {self.name} returned {value!r:.100}; return a number, or None to abstain")
        return float(value)

    def _call_one(self, arguments: dict[str, Any]) -> Any:
        parameters = list(inspect.signature(self.function).parameters)
        if len(parameters) == 1 and parameters[0] not in arguments:  # def f(text): the completion by another name
            return self.function(arguments["completion"])
        return self.function(**_wanted(self, arguments))


_PLURAL = {"prompt": "prompts", "completion": "completions"}


@overload
def reward(function: Callable[..., Any], /) -> Reward: ...
@overload
def reward(
    *, name: str | None = None, weight: float = 1.0, batch: bool = False
) -> Callable[[Callable[..., Any]], Reward]: ...
def reward(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, weight: float = 1.0, batch: bool = False
) -> Reward | Callable[[Callable[..., Any]], Reward]:
    """Makes a function a reward: `def f(completion, answer): return float(answer in completion)`.

    It gets what it names: completion, prompt, truncated, and any column of the training rows. It returns a number;
    None abstains. With batch=True it gets lists (completions, prompts, columns) and returns a list, as TRL's rewards
    do. It may be a coroutine function.
    """

    def make(f: Callable[..., Any]) -> Reward:
        return Reward(f, name or f.__name__, weight, batch)

    return make if function is None else make(function)


def _arguments(item: rewards_pb2.RewardItem) -> dict[str, Any]:
    prompt = json.loads(item.prompt_json) if item.prompt_json else ""
    return {**item.columns, "prompt": prompt, "completion": item.completion, "truncated": item.truncated}


def _wanted(reward: Reward, known: dict[str, Any]) -> dict[str, Any]:
    """The part of `known` that the function names."""
    parameters = inspect.signature(reward.function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return known
    missing = [p.name for p in parameters if p.name not in known and p.default is p.empty]
    if missing:
        raise TypeError(f"reward {reward.name} wants {', '.join(missing)}; the rows have {', '.join(sorted(known))}")
    return {p.name: known[p.name] for p in parameters if p.name in known}


def _finished(value: Any) -> Any:
    return asyncio.run(_await(value)) if inspect.isawaitable(value) else value


async def _await(value: Any) -> Any:
    return await value


def _code_sha256(rewards: Sequence[Reward]) -> str:
    digest = hashlib.sha256()
    for r in rewards:
        try:
            digest.update(inspect.getsource(r.function).encode())
        except (OSError, TypeError):
            digest.update(r.name.encode())
    return digest.hexdigest()


class RewardServer:
    """Serves rewards from background threads, from its making until stop() or, for one job, until that has ended.
    `job` "": trials by evaluate_reward(), and every job that names these rewards."""

    PATIENCE = 600.0  # seconds to wait for a daemon that is away

    def __init__(self, address: _connect.Address, job: str, rewards: Sequence[Reward], in_flight: int = 2) -> None:
        if not rewards:
            raise _errors.InvalidArgument("give at least one reward: job.serve_rewards(f)")
        self.rewards = {r.name: r for r in rewards}
        if len(self.rewards) < len(rewards):
            raise _errors.InvalidArgument("two rewards have the same name")
        self.scored = 0  # completions answered so far
        self.failed = 0  # batches answered with an error
        self._hello = rewards_pb2.RewardHello(
            worker_id=f"{socket.gethostname()}-{os.getpid()}-{id(self):x}",
            job=job,
            reward_names=list(self.rewards),
            code_sha256=_code_sha256(rewards),
            max_in_flight=in_flight,
        )
        self._connection = address.connection(asynchronous=False)
        self._pool = concurrent.futures.ThreadPoolExecutor(in_flight, "finetuned-reward")
        self._stop = threading.Event()
        self._leases: dict[str, float] = {}  # batch -> seconds between signs of life
        self._outbox: queue.SimpleQueue[rewards_pb2.RewardWorkerMessage | None] = queue.SimpleQueue()
        self._stream: Any = None
        self._error: _errors.FinetunedError | None = None
        self._thread = threading.Thread(target=self._run, name="finetuned-rewards", daemon=True)
        self._thread.start()
        if job:
            threading.Thread(target=self._leave_with, args=(job,), name="finetuned-watch", daemon=True).start()

    def __enter__(self) -> "RewardServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Leaves; batches that are not answered go to other workers."""
        self._stop.set()
        self._outbox.put(None)  # closes our half of the stream; the daemon then closes its own
        self._thread.join(2.0)
        if self._stream is not None:
            self._stream.cancel()
        self._thread.join()

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until the job has ended; raises what ended serving early."""
        self._thread.join(timeout)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        backoff = _effects.Backoff(self.PATIENCE)
        try:
            while not self._stop.is_set():
                error = self._serve_once(backoff)
                if error is None or self._stop.is_set():
                    return
                delay = backoff.delay(error.retry_after) if _effects.is_transient(error) else None
                if delay is None:
                    self._error = error
                    log.error("rewards are no longer served: %s", error)
                    return
                self._stop.wait(delay)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._connection.channel.close()

    def _leave_with(self, job: str) -> None:
        """The daemon does not say on this stream that the job has ended: its events do."""
        try:
            _effects.Blocking(self._connection).run(_ops.wait(job))
        except (_errors.FinetunedError, ValueError):  # ValueError: the channel is closed, we have left already
            return
        self.stop()

    def _serve_once(self, backoff: _effects.Backoff) -> _errors.FinetunedError | None:
        """One stream. None: the daemon has ended it because the job has."""
        outbox: queue.SimpleQueue[rewards_pb2.RewardWorkerMessage | None] = queue.SimpleQueue()
        self._outbox = outbox
        self._leases.clear()
        outbox.put(rewards_pb2.RewardWorkerMessage(hello=self._hello))
        credit = rewards_pb2.RewardCredit(batches=self._hello.max_in_flight)
        outbox.put(rewards_pb2.RewardWorkerMessage(credit=credit))
        try:
            self._stream = self._connection.start("Rewards.AttachRewardWorker", self._messages(outbox), None)
            for dispatch in self._stream:
                backoff.reset()
                if dispatch.HasField("batch"):
                    self._leases[dispatch.batch.batch_id] = _sign_of_life(dispatch.batch)
                    self._pool.submit(self._score, dispatch.batch, outbox)
                elif dispatch.HasField("revoke"):
                    self._leases.pop(dispatch.revoke.batch_id, None)
            return None
        except grpc.RpcError as error:
            return _errors.from_rpc(error, self._connection.target)
        finally:
            outbox.put(None)

    def _messages(
        self,
        outbox: "queue.SimpleQueue[rewards_pb2.RewardWorkerMessage | None]",
    ) -> Iterator[rewards_pb2.RewardWorkerMessage]:
        """What is to be sent; between, signs of life for batches that take long."""
        due: dict[str, float] = {}
        while True:
            now = time.monotonic()
            leases = dict(self._leases)
            due = {b: due.get(b, now + every) for b, every in leases.items()}
            for batch, at in due.items():
                if at <= now:
                    due[batch] = now + leases[batch]
                    yield rewards_pb2.RewardWorkerMessage(progress=rewards_pb2.RewardProgress(batch_id=batch))
            try:
                message = outbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if message is None:
                return
            yield message

    def _score(
        self, batch: rewards_pb2.RewardBatch, outbox: "queue.SimpleQueue[rewards_pb2.RewardWorkerMessage | None]"
    ) -> None:
        result = rewards_pb2.RewardResult(batch_id=batch.batch_id, lease_epoch=batch.lease_epoch)
        name = ""
        try:
            for name, one in self.rewards.items():
                result.scores.add(reward_name=name, values=one.score(batch.items))
            self.scored += len(batch.items)
        except Exception as error:  # a user's function may raise anything
            self.failed += 1
            log.exception("reward %s failed", name)
            result.ClearField("scores")
            result.error.code = _UNKNOWN
            result.error.message = f"reward {name}: {type(error).__name__}: {error}"[:1000]
        if self._leases.pop(batch.batch_id, None) is not None:
            outbox.put(rewards_pb2.RewardWorkerMessage(result=result))
        outbox.put(rewards_pb2.RewardWorkerMessage(credit=rewards_pb2.RewardCredit(batches=1)))


def _sign_of_life(batch: rewards_pb2.RewardBatch) -> float:
    """Seconds between two signs of life: a third of the lease."""
    lease = batch.lease_expire_time.seconds + batch.lease_expire_time.nanos * 1e-9 - time.time()
    return min(max(lease / 3, 0.2), 20.0)
