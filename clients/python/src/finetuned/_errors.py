"""What can go wrong, as exceptions. Every answer of the daemon that is not OK carries google.rpc details;
`from_rpc` turns them into the most specific class here.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from .v1 import datasets_pb2


@dataclasses.dataclass(frozen=True)
class Violation:
    """One wrong field: path ("job.spec.lora.rank") and what is wrong with it."""

    field: str
    description: str


class FinetunedError(Exception):
    """Base of all. `reason` is a stable code ("VRAM_BUDGET_EXCEEDED"); `metadata` its values."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = list(violations)
        self.retry_after = retry_after  # seconds; None: the daemon did not say
        self.code = code  # gRPC code, "NOT_FOUND"; "" when the client found it

    def __str__(self) -> str:
        lines = [self.message]
        for v in self.violations:
            line = f"{v.field}: {v.description}" if v.field else v.description
            if line not in self.message:
                lines.append("  " + line)
        return "\n".join(lines)


class InvalidArgument(FinetunedError, ValueError):
    """The input is wrong: see `violations`, each with the path of its field."""


class NotFound(FinetunedError, LookupError):
    """No such job, dataset, adapter or checkpoint."""


class AlreadyExists(FinetunedError):
    """The name is taken."""


class WrongState(FinetunedError):
    """The job is not in a state that allows this."""


class Conflict(FinetunedError):
    """Somebody else changed it, or is doing the same now: read it again."""


class QuotaExceeded(FinetunedError):
    """A fixed limit; trying again does not help."""


class VramBudgetExceeded(QuotaExceeded):
    """The job would not fit into device memory. `suggestion` says which setting makes it fit."""

    @property
    def predicted_bytes(self) -> int:
        return int(self.metadata.get("predicted_bytes", 0))

    @property
    def budget_bytes(self) -> int:
        return int(self.metadata.get("budget_bytes", 0))

    @property
    def suggestion(self) -> str:
        return self.metadata.get("suggestion", "")

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n  try: {self.suggestion}" if self.suggestion and self.suggestion not in text else text


class Busy(FinetunedError):
    """Too much at the moment; `retry_after` says when to try again."""


class Unavailable(FinetunedError, ConnectionError):
    """The daemon is being stopped, or the connection broke."""


class DaemonUnreachable(Unavailable):
    """Nothing answers at the address."""


class DeadlineExceeded(FinetunedError, TimeoutError):
    """No answer in time. A mutation may have happened: repeating it with its request_id is safe."""


class PermissionDenied(FinetunedError, PermissionError):
    """Token or certificate missing or wrong, or not allowed."""


class NotAvailable(FinetunedError, NotImplementedError):
    """Part of the API, not of this daemon's version."""


class HistoryCompacted(FinetunedError):
    """Events asked for are no longer kept; the first one that is: metadata["first_available"]."""


class ChecksumMismatch(FinetunedError):
    """Bytes arrived damaged, here or there."""


class InternalError(FinetunedError):
    """A mistake of the daemon; its log has the details."""


class DatasetInvalid(InvalidArgument):
    """Uploaded rows cannot be trained on. `dataset` lists line, field and reason of up to 20 errors."""

    def __init__(self, dataset: datasets_pb2.Dataset, source: str) -> None:
        self.dataset = dataset
        found = [Violation(describe_row(e), e.message) for e in dataset.errors]
        super().__init__(
            f"{source} is not usable for {dataset.method} ({dataset.error_count} errors)",
            reason="INVALID_DATASET",
            violations=found,
        )


class JobFailed(FinetunedError):
    """Raised by wait() when the job did not succeed. `job` is its handle."""

    def __init__(self, job: Any, message: str, reason: str) -> None:
        super().__init__(message, reason=reason)
        self.job = job


class MissingDependency(FinetunedError, ImportError):
    """An optional library is not installed."""


def describe_row(error: datasets_pb2.RowError) -> str:
    """ "line 3, messages[1].role"."""
    where = [f"line {error.line}"] if error.line > 0 else []
    return ", ".join(where + ([error.field] if error.field else []))


_BY_CODE: dict[grpc.StatusCode, type[FinetunedError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: WrongState,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QuotaExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: NotAvailable,
    grpc.StatusCode.OUT_OF_RANGE: HistoryCompacted,
    grpc.StatusCode.DATA_LOSS: ChecksumMismatch,
}


@dataclasses.dataclass
class Details:
    """What google.rpc details say, gathered."""

    reason: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    violations: list[Violation] = dataclasses.field(default_factory=list)
    retry_after: float | None = None


def read_details(anys: Iterable[Any]) -> Details:
    out = Details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    precondition, retry = error_details_pb2.PreconditionFailure(), error_details_pb2.RetryInfo()
    for any_ in anys:
        if any_.Unpack(info):
            out.reason, out.metadata = info.reason, dict(info.metadata)
        elif any_.Unpack(bad):
            out.violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif any_.Unpack(precondition):
            out.violations += [Violation(v.subject, v.description) for v in precondition.violations]
        elif any_.Unpack(retry):
            out.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9
    return out


def from_rpc(error: grpc.RpcError, target: str) -> FinetunedError:
    """The exception for a failed call (grpc or grpc.aio) to `target`."""
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name
    rich = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            rich.ParseFromString(value if isinstance(value, bytes) else value.encode("latin-1"))
    details = read_details(rich.details)
    kind = _BY_CODE.get(code, InternalError)
    if details.reason == "VRAM_BUDGET_EXCEEDED":
        kind = VramBudgetExceeded
    elif kind is QuotaExceeded and details.retry_after is not None:
        kind = Busy
    elif kind is Unavailable and not details.reason:
        kind = DaemonUnreachable
        text = (
            f"no daemon answers at {target} ({text})\n  start it with: finetuned\n"
            '  or name another: finetuned.connect("unix:///path") or FINETUNED_SERVER'
        )
    return kind(
        text,
        reason=details.reason,
        metadata=details.metadata,
        violations=details.violations,
        retry_after=details.retry_after,
        code=code.name,
    )
