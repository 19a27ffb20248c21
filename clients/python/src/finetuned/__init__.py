"""Fine-tune models through the finetuned daemon.

import finetuned
ft = finetuned.connect()
job = ft.submit(model="smollm2", data=[{"prompt": "...", "completion": "..."}])
job.watch()
job.download("my-adapter")
"""

from . import aio, exporters
from ._errors import (
    AlreadyExists,
    Busy,
    ChecksumMismatch,
    Conflict,
    DaemonUnreachable,
    DatasetInvalid,
    DeadlineExceeded,
    FinetunedError,
    HistoryCompacted,
    InternalError,
    InvalidArgument,
    JobFailed,
    MissingDependency,
    NotAvailable,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Unavailable,
    Violation,
    VramBudgetExceeded,
    WrongState,
)
from ._metrics import Comparison
from ._transfer import DatasetWarning
from ._values import Adapter, Dataset, Event, Plan, Preview, Sample, Series
from .client import Client, Job, compare, connect
from .rewards import Reward, RewardServer, reward
from .specs import (
    BuiltinReward,
    CheckpointPolicy,
    ComputeSpec,
    DpoSpec,
    EvalPolicy,
    GrpoSpec,
    JobSpec,
    KtoSpec,
    LoraSpec,
    OptimizerSpec,
    QuantizationSpec,
    RemoteReward,
    ScheduleSpec,
    Scheduling,
    SftSpec,
)

__all__ = [
    "Adapter",
    "AlreadyExists",
    "BuiltinReward",
    "Busy",
    "CheckpointPolicy",
    "ChecksumMismatch",
    "Client",
    "Comparison",
    "ComputeSpec",
    "Conflict",
    "DaemonUnreachable",
    "Dataset",
    "DatasetInvalid",
    "DatasetWarning",
    "DeadlineExceeded",
    "DpoSpec",
    "EvalPolicy",
    "Event",
    "FinetunedError",
    "GrpoSpec",
    "HistoryCompacted",
    "InternalError",
    "InvalidArgument",
    "Job",
    "JobFailed",
    "JobSpec",
    "KtoSpec",
    "LoraSpec",
    "MissingDependency",
    "NotAvailable",
    "NotFound",
    "OptimizerSpec",
    "PermissionDenied",
    "Plan",
    "Preview",
    "QuantizationSpec",
    "QuotaExceeded",
    "RemoteReward",
    "Reward",
    "RewardServer",
    "Sample",
    "ScheduleSpec",
    "Scheduling",
    "Series",
    "SftSpec",
    "Unavailable",
    "Violation",
    "VramBudgetExceeded",
    "WrongState",
    "aio",
    "compare",
    "connect",
    "exporters",
    "reward",
]
