"""Writes what the client takes from the .proto files, with the grpcio-tools of this Python:

* src/finetuned/v1/*_pb2.py and .pyi: the messages
* src/finetuned/specs.py: one dataclass per message of a job's specification, with the comments of the
  .proto files as documentation, so that a new field of the API is a new field of the client

Usage: python generate.py
"""

import importlib.resources
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from google.protobuf import descriptor_pb2

HERE = pathlib.Path(__file__).resolve().parent
PROTO_ROOT = HERE.parents[1] / "proto"
PACKAGE = HERE / "src/finetuned"
SPEC_PROTO = "finetuned/v1/spec.proto"

Field = descriptor_pb2.FieldDescriptorProto
Message = descriptor_pb2.DescriptorProto

SCALARS = {Field.TYPE_STRING: "str", Field.TYPE_BOOL: "bool", Field.TYPE_DOUBLE: "float", Field.TYPE_FLOAT: "float"}
WELL_KNOWN = {".google.protobuf.Duration": "Duration", ".google.protobuf.Timestamp": "datetime.datetime"}

HEADER = '''"""What to train, as dataclasses. Generated from spec.proto by generate.py: do not edit.

A field that is None is left to the daemon, which fills in its default (`plan` and `job.resolved_spec` show
it). Everywhere a plain dict with the same keys does as well.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

# Seconds, or "90s", "15m", "2h", "1d".
Duration = datetime.timedelta | float | str


'''


def compile_protos() -> descriptor_pb2.FileDescriptorSet:
    """Runs protoc; returns the descriptors with their comments."""
    import google.rpc  # googleapis-common-protos; also the root of google/rpc/*.proto
    from grpc_tools import protoc

    google_root = pathlib.Path(next(iter(google.rpc.__path__))).parents[1]
    tools_root = importlib.resources.files("grpc_tools") / "_proto"
    files = sorted(str(p.relative_to(PROTO_ROOT)) for p in (PROTO_ROOT / "finetuned/v1").glob("*.proto"))
    (PACKAGE / "v1").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        found = pathlib.Path(tmp) / "set.pb"
        code = protoc.main(
            [
                "protoc",
                f"-I{PROTO_ROOT}",
                f"-I{google_root}",
                f"-I{tools_root}",
                f"--python_out={PACKAGE.parent}",
                f"--pyi_out={PACKAGE.parent}",
                "--include_source_info",
                f"--descriptor_set_out={found}",
                *files,
            ]
        )
        if code != 0:
            raise SystemExit(f"protoc failed with {code}")
        (PACKAGE / "v1/__init__.py").write_text('"""The messages of the API, generated from the .proto files."""\n')
        return descriptor_pb2.FileDescriptorSet.FromString(found.read_bytes())


def comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Path of a declaration -> its comment, on lines of one sentence or more."""
    return {
        tuple(at.path): " ".join((at.leading_comments + " " + at.trailing_comments).split())
        for at in file.source_code_info.location
    }


def base_type(field: Field) -> str:
    if field.type == Field.TYPE_MESSAGE:
        return WELL_KNOWN.get(field.type_name) or f"{field.type_name.rsplit('.', 1)[1]} | Mapping[str, Any]"
    return SCALARS.get(field.type, "int")


def annotation(field: Field, message: Message) -> str:
    entries = {f".finetuned.v1.{message.name}.{n.name}": n for n in message.nested_type if n.options.map_entry}
    if field.type_name in entries:
        return f"Mapping[str, {base_type(entries[field.type_name].field[1])}]"
    if field.label == Field.LABEL_REPEATED:
        return f"Sequence[{base_type(field)}]"
    return base_type(field)


def wrapped(text: str) -> Iterator[str]:
    import textwrap

    yield from (f"    # {line}" for line in textwrap.wrap(text, 105))


def dataclass_of(message: Message, number: int, notes: dict[tuple[int, ...], str]) -> Iterator[str]:
    yield "\n@dataclasses.dataclass(kw_only=True)"
    yield f"class {message.name}:"
    yield f'    """{notes.get((4, number), "") or message.name + " of a job."}"""\n'
    for i, field in enumerate(message.field):
        yield from wrapped(notes.get((4, number, 2, i), ""))
        yield f"    {field.name}: {annotation(field, message)} | None = None"
    yield ""


def keywords_of(message: Message) -> Iterator[str]:
    """The same fields as keyword arguments of submit() and plan()."""
    yield "\nclass SpecFields(TypedDict, total=False):"
    yield f'    """The fields of {message.name} as keyword arguments."""\n'
    for field in message.field:
        yield f"    {field.name}: {annotation(field, message)}"


def in_order(messages: list[Message]) -> list[Message]:
    """Messages after those that they hold: annotations need no quotes."""
    names = {m.name: m for m in messages}
    done: dict[str, Message] = {}

    def visit(message: Message) -> None:
        for field in message.field:
            inner = names.get(field.type_name.rsplit(".", 1)[-1])
            if inner is not None and inner.name not in done:
                visit(inner)
        done[message.name] = message

    for message in messages:
        if message.name not in done:
            visit(message)
    return list(done.values())


def main() -> int:
    descriptors = compile_protos()
    file = next(f for f in descriptors.file if f.name == SPEC_PROTO)
    notes = comments(file)
    numbers = {m.name: i for i, m in enumerate(file.message_type)}
    lines = [line for m in in_order(list(file.message_type)) for line in dataclass_of(m, numbers[m.name], notes)]
    lines += keywords_of(next(m for m in file.message_type if m.name == "JobSpec"))
    (PACKAGE / "specs.py").write_text(HEADER + "\n".join(lines).lstrip("\n").rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
