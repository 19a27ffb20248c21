"""How one piece of logic serves the blocking client and its async twin.

An *operation* is a generator that does no I/O. It yields effects (call this method, open that stream, read a
message, sleep, emit a value) and gets their results sent in; failures are thrown in as FinetunedError. The
drivers below carry effects out: `Blocking` over grpc, `Async` over grpc.aio. Everything that can be got wrong,
retries, resume tokens, offsets, stands in operations, once.
"""

import asyncio
import dataclasses
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from . import _errors, _methods

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Call:
    """One answer to one request, or to a stream of requests. Result: the response."""

    method: str
    request: Message | Iterable[Message]
    timeout: float | None = 10.0


@dataclasses.dataclass(frozen=True)
class Open:
    """Starts a call that answers with a stream. Result: what Read wants."""

    method: str
    request: Message


@dataclasses.dataclass(frozen=True)
class Read:
    """Result: the stream's next message; None at its end."""

    stream: Any


@dataclasses.dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclasses.dataclass(frozen=True)
class Emit:
    """Hands a value to whoever iterates over the operation."""

    value: Any


Effect = Call | Open | Read | Sleep | Emit
Operation = Generator[Effect, Any, T]


class Backoff:
    """Delays that double, with jitter, until `patience` seconds have been slept in a row."""

    def __init__(self, patience: float, first: float = 0.1, longest: float = 5.0) -> None:
        self._patience, self._first, self._longest = patience, first, longest
        self.reset()

    def reset(self) -> None:
        self._slept, self._next = 0.0, self._first

    def delay(self, at_least: float | None) -> float | None:
        """What to sleep before the next try; None: give up. `at_least`: what the daemon asked for."""
        delay = max(self._next * random.uniform(0.5, 1.0), at_least or 0.0)
        if self._slept + delay > self._patience:
            return None
        self._slept += delay
        self._next = min(self._longest, self._next * 2)
        return delay


def is_transient(error: _errors.FinetunedError) -> bool:
    """Away, busy, or somebody else is at the same thing now (an upload of the same rows)."""
    waits = isinstance(error, _errors.Conflict) and error.retry_after is not None
    return waits or isinstance(error, (_errors.Unavailable, _errors.Busy))


def call(method: str, request: Any, timeout: float = 10.0, patience: float = 20.0) -> Operation[Any]:
    """A unary call, repeated while the daemon is away or busy. Mutations get a request_id first, so that a
    repeated one happens once."""
    if "request_id" in type(request).DESCRIPTOR.fields_by_name and not request.request_id:
        request.request_id = str(uuid.uuid4())
    backoff = Backoff(patience)
    while True:
        try:
            return (yield Call(method, request, timeout))
        except _errors.FinetunedError as error:
            delay = backoff.delay(error.retry_after) if is_transient(error) else None
            if delay is None:
                raise
        yield Sleep(delay)


class Connection:
    """Address, credentials and deadline rules shared by both drivers."""

    def __init__(self, channel: Any, target: str, token: str) -> None:
        self.channel, self.target = channel, target
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._calls: dict[str, Any] = {}

    def start(self, method: str, request: Any, timeout: float | None) -> Any:
        if method not in self._calls:
            self._calls[method] = _methods.find(method).multicallable(self.channel)
        return self._calls[method](request, timeout=timeout, metadata=self._metadata)


class _Steps:
    """Goes through an operation, one effect at a time."""

    def __init__(self, operation: Operation[Any]) -> None:
        self._operation = operation
        self.answer(None)

    def advance(self) -> Effect | None:
        """The next effect; None: the operation has ended."""
        resume = self._resume
        self.answer(None)
        try:
            return resume()
        except StopIteration:
            return None

    def answer(self, value: Any) -> None:
        self._resume: Callable[[], Effect] = lambda: self._operation.send(value)

    def fail(self, error: Exception) -> None:
        self._resume = lambda: self._operation.throw(error)


class Blocking:
    """Carries out operations over a grpc.Channel."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def _perform(self, effect: Effect, opened: list[Any]) -> Any:
        try:
            if isinstance(effect, Call):
                return self.connection.start(effect.method, effect.request, effect.timeout)
            if isinstance(effect, Open):
                opened.append(self.connection.start(effect.method, effect.request, None))
                return opened[-1]
            if isinstance(effect, Read):
                return next(effect.stream, None)
        except grpc.RpcError as error:
            raise _errors.from_rpc(error, self.connection.target) from None
        if isinstance(effect, Sleep):
            time.sleep(effect.seconds)
        return None

    def iterate(self, operation: Operation[Any]) -> Iterator[Any]:
        """The values the operation emits. Leaving early cancels its streams."""
        opened: list[Any] = []
        steps = _Steps(operation)
        try:
            while (effect := steps.advance()) is not None:
                if isinstance(effect, Emit):
                    yield effect.value
                    continue
                try:
                    steps.answer(self._perform(effect, opened))
                except _errors.FinetunedError as error:
                    steps.fail(error)
        finally:
            operation.close()
            for stream in opened:
                stream.cancel()

    def run(self, operation: Operation[T]) -> T:
        """The operation's result."""
        result: list[T] = []
        try:
            for _ in self.iterate(_keep(operation, result)):
                pass
        except _errors.FinetunedError as error:
            raise error.with_traceback(None) from None  # our frames tell the user nothing
        return result[0]


class Async:
    """Carries out operations over a grpc.aio.Channel."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def _perform(self, effect: Effect, opened: list[Any]) -> Any:
        try:
            if isinstance(effect, Call):
                return await self.connection.start(effect.method, effect.request, effect.timeout)
            if isinstance(effect, Open):
                opened.append(self.connection.start(effect.method, effect.request, None))
                return opened[-1]
            if isinstance(effect, Read):
                message = await effect.stream.read()
                return None if message is grpc.aio.EOF else message
        except grpc.RpcError as error:
            raise _errors.from_rpc(error, self.connection.target) from None
        if isinstance(effect, Sleep):
            await asyncio.sleep(effect.seconds)
        return None

    async def iterate(self, operation: Operation[Any]) -> AsyncIterator[Any]:
        """The values the operation emits. Leaving early cancels its streams."""
        opened: list[Any] = []
        steps = _Steps(operation)
        try:
            while (effect := steps.advance()) is not None:
                if isinstance(effect, Emit):
                    yield effect.value
                    continue
                try:
                    steps.answer(await self._perform(effect, opened))
                except _errors.FinetunedError as error:
                    steps.fail(error)
        finally:
            operation.close()
            for stream in opened:
                stream.cancel()

    async def run(self, operation: Operation[T]) -> T:
        """The operation's result."""
        result: list[T] = []
        try:
            async for _ in self.iterate(_keep(operation, result)):
                pass
        except _errors.FinetunedError as error:
            raise error.with_traceback(None) from None
        return result[0]


def _keep(operation: Operation[T], result: list[T]) -> Operation[None]:
    result.append((yield from operation))
