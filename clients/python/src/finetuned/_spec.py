"""From dataclasses, dicts and keyword arguments to the Job message, with the path of every mistake."""

import dataclasses
import datetime
import difflib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from . import specs
from ._errors import InvalidArgument, MissingDependency, Violation
from .v1 import jobs_pb2, spec_pb2

METHODS = ("sft", "dpo", "kto", "grpo")
# Short names of submit() and plan(), and what they stand for.
ALIASES = {"model": "base_model", "data": "dataset", "eval_data": "eval_dataset"}
_JOB_FIELDS = ("display_name", "labels", "scheduling", "ttl")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class JobFields(specs.SpecFields, total=False):
    """Keyword arguments of submit() and plan()."""

    name: str  # of the job, [a-z][a-z0-9-]{2,62}; chosen by the daemon when left out
    model: str  # base_model; "smollm2" is short for "models/smollm2"
    data: Any  # rows, a path, a Dataset or "datasets/NAME"
    eval_data: Any  # held-out rows, likewise
    display_name: str
    labels: Mapping[str, str]
    scheduling: specs.Scheduling | Mapping[str, Any]
    ttl: specs.Duration
    rewards: Sequence[Any]  # of grpo: @reward functions that this client will serve


@dataclasses.dataclass
class JobDraft:
    """A job whose data may still have to be uploaded."""

    job: jobs_pb2.Job
    job_id: str
    data: dict[str, Any]  # "dataset", "eval_dataset" -> rows, path or handle

    @property
    def method(self) -> str:
        return self.job.spec.WhichOneof("method") or "sft"


def make_draft(given: Any, keywords: Mapping[str, Any]) -> JobDraft:
    """`given`: None, a JobSpec, a dict, or the path of a job file. Keywords win over it.
    InvalidArgument names every wrong field."""
    base, folder = _as_mapping(given)
    fields: dict[str, Any] = {}
    for source in (_flat(base), _flat(keywords)):
        fields |= {ALIASES.get(k, k): v for k, v in source.items() if v is not None}
    job_id = str(fields.pop("name", "")).removeprefix("jobs/")
    data: dict[str, Any] = {k: _located(fields.pop(k), folder) for k in ("dataset", "eval_dataset") if k in fields}
    if isinstance(fields.get("base_model"), str) and not re.search(r"[/.]", fields["base_model"]):
        fields["base_model"] = f"models/{fields['base_model']}"
    if not any(m in fields for m in METHODS):
        fields["sft"] = {}
    job = jobs_pb2.Job()
    wrong: list[Violation] = []
    rewards = fields.pop("rewards", ())
    of_job = {k: fields.pop(k) for k in _JOB_FIELDS if k in fields}
    if sum(m in fields for m in METHODS) > 1:
        wrong.append(Violation("method", "one method only, got " + ", ".join(m for m in METHODS if m in fields)))
    _fill(job, of_job, "", wrong)
    _fill(job.spec, fields, "", wrong)
    if rewards and not job.spec.HasField("grpo"):
        wrong.append(Violation("rewards", "needs grpo={...}"))
    elif rewards:
        names_and_weights = {"reward_names": [r.name for r in rewards], "weights": [r.weight for r in rewards]}
        _fill(job.spec.grpo.remote_reward, names_and_weights, "grpo.remote_reward", wrong)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InvalidArgument(
            f"{wrong[0].field}: {wrong[0].description}{more}", reason="INVALID_FIELD", violations=wrong
        )
    return JobDraft(job, job_id, data)


def fill(message: Message, value: Any, path: str = "") -> None:
    """Sets the fields of `message` from a dataclass or a mapping; InvalidArgument names every wrong one."""
    wrong: list[Violation] = []
    _fill(message, _as_mapping(value)[0], path, wrong)
    if wrong:
        raise InvalidArgument(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)


def _as_mapping(given: Any) -> tuple[Mapping[str, Any], pathlib.Path | None]:
    if given is None:
        return {}, None
    if isinstance(given, (str, pathlib.Path)):
        path = pathlib.Path(given).expanduser()
        return _read_job_file(path), path.parent
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}, None
    if isinstance(given, Mapping):
        return given, None
    raise InvalidArgument(
        f"a job is described by a JobSpec, a dict, or the path of a job file, not by a {type(given).__name__}"
    )


def _read_job_file(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
    if path.suffix.lower() == ".json":
        content = json.loads(text)
    else:
        try:
            import yaml
        except ImportError:
            raise MissingDependency("YAML job files need PyYAML: pip install 'finetuned[yaml]'") from None
        content = yaml.safe_load(text)
    if not isinstance(content, Mapping):
        raise InvalidArgument(f"{path} is no job file: its top level must be a mapping")
    return content


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of spec may stand at the top or below "spec", as in job files."""
    spec, _ = _as_mapping(fields.get("spec"))
    return {**spec, **{k: v for k, v in fields.items() if k != "spec"}}


def _located(data: Any, folder: pathlib.Path | None) -> Any:
    """Files of a job file are found beside it."""
    if folder is None or not isinstance(data, str) or data.startswith("datasets/") or pathlib.Path(data).is_absolute():
        return data
    return folder / data


def _fill(message: Message, fields: Mapping[str, Any], path: str, wrong: list[Violation]) -> None:
    descriptor: Any = message.DESCRIPTOR
    known = descriptor.fields_by_name
    for key, value in fields.items():
        where = f"{path}.{key}" if path else str(key)
        if value is None:
            continue
        if key not in known:
            wrong.append(Violation(where, "is not a field" + _did_you_mean(key, descriptor)))
            continue
        try:
            _set(message, known[key], value, where, wrong)
        except (TypeError, ValueError) as error:
            wrong.append(Violation(where, str(error)))


def _set(message: Message, field: FieldDescriptor, value: Any, where: str, wrong: list[Violation]) -> None:
    target = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of = kind.fields_by_name["value"]
        for k, v in _expect(value, Mapping, "a mapping").items():
            target[str(k)] = _scalar(of, v)
    elif field.is_repeated:
        if isinstance(value, (str, Mapping)):
            raise TypeError(f"must be a list, got {value!r}")
        for i, item in enumerate(value):
            if kind is not None:
                _fill(target.add(), _as_mapping(item)[0], f"{where}[{i}]", wrong)
            else:
                target.append(_scalar(field, item))
    elif kind is None:
        setattr(message, field.name, _scalar(field, value))
    elif kind.full_name == "google.protobuf.Duration":
        target.FromTimedelta(datetime.timedelta(seconds=_seconds(value)))
    elif kind.full_name == "google.protobuf.Timestamp":
        _set_time(target, value)
    else:
        target.SetInParent()
        _fill(target, _nested(value), where, wrong)


def _nested(value: Any) -> Mapping[str, Any]:
    if isinstance(value, (str, pathlib.Path)):
        raise TypeError(f"must be a dataclass or a dict, got {value!r}")
    return _as_mapping(value)[0]


def _expect(value: Any, kind: type, words: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"must be {words}, got {value!r}")
    return value


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if hasattr(value, "item"):  # numpy numbers
        value = value.item()
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _expect(value, str, "a string")
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _expect(value, bool, "True or False")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"must be a number, got {value!r}")
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return float(value)
    if value != int(value):
        raise ValueError(f"must be an integer, got {value!r}")
    return int(value)


def _seconds(value: Any) -> float:
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value.strip())
        if match is None:
            raise ValueError(f'must be a duration such as "90s", "15m", "2h" or "1d", got {value!r}')
        return float(match[1]) * _UNIT_SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"must be a duration, got {value!r}")
    return float(value)


def _set_time(target: Any, value: Any) -> None:
    if isinstance(value, str):
        target.FromJsonString(value)
    elif isinstance(value, datetime.datetime) and value.tzinfo is not None:
        target.FromDatetime(value)
    else:
        raise TypeError(f"must be a datetime with a time zone, or RFC 3339 text, got {value!r}")


def _paths(descriptor: Descriptor, prefix: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        yield prefix + field.name
        if field.message_type is not None and field.message_type.file is descriptor.file and not field.is_repeated:
            yield from _paths(field.message_type, f"{prefix}{field.name}.")


def _did_you_mean(key: str, descriptor: Descriptor) -> str:
    """The nearest field of the message; else one further down: rank -> lora.rank."""
    here = [f.name for f in descriptor.fields]
    if descriptor is spec_pb2.JobSpec.DESCRIPTOR:
        here += [*ALIASES, *_JOB_FIELDS, "name", "rewards"]
        below = [p for p in _paths(descriptor) if p.rsplit(".", 1)[-1] == key]
        if below:
            return f"; did you mean {' or '.join(below)}?"
    near = difflib.get_close_matches(key, here, n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(here)}"
