"""Uploads and downloads: resumable, with a checksum of every chunk and of the whole file."""

import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from . import _errors
from ._crc32c import crc32c
from ._effects import Backoff, Call, Open, Operation, Read, Sleep, call, is_transient
from ._rows import RowData, Source, open_rows
from .v1 import adapters_pb2, datasets_pb2

CHUNK = 1 << 20
PATIENCE = 60.0  # seconds without a byte getting through
Progress = Callable[[int, int], None]  # bytes done, bytes in all


class DatasetWarning(UserWarning):
    """Rows that train, but perhaps not as meant."""


def upload(data: RowData, method: str, name: str | None, progress: Progress | None) -> Operation[datasets_pb2.Dataset]:
    """DatasetInvalid with line and field of each error where the rows cannot be trained on."""
    source = open_rows(data)
    try:
        dataset_id = name.removeprefix("datasets/") if name else source.dataset_id(method)
        dataset = yield from _find(dataset_id, source)
        if dataset is None:
            dataset = yield from _send(source, dataset_id, method, resume=name is None, progress=progress)
    finally:
        source.file.close()
    if dataset.state == datasets_pb2.Dataset.INVALID:
        raise _errors.DatasetInvalid(dataset, source.label)
    if dataset.warnings:
        lines = [f"{source.label}: {dataset.warning_count} warnings"]
        lines += [f"  {_errors.describe_row(w)}: {w.message}" for w in dataset.warnings]
        warnings.warn("\n".join(lines), DatasetWarning, stacklevel=2)
    return dataset


def _find(dataset_id: str, source: Source) -> Operation[datasets_pb2.Dataset | None]:
    """What the daemon has under this id; None: nothing that stands in the way."""
    try:
        found = yield from call("Datasets.GetDataset", datasets_pb2.GetDatasetRequest(name=f"datasets/{dataset_id}"))
    except _errors.NotFound:
        return None
    if found.sha256 == source.sha256:
        return found
    if found.state == datasets_pb2.Dataset.INVALID:
        return None
    raise _errors.AlreadyExists(f"datasets/{dataset_id} holds other rows; choose another name, or delete it first")


def _committed(dataset_id: str) -> Operation[int]:
    try:
        status = yield from call("Datasets.GetUploadStatus", datasets_pb2.GetUploadStatusRequest(dataset_id=dataset_id))
    except _errors.NotFound:
        return 0
    return 0 if status.complete else int(status.committed_size)


def _send(
    source: Source, dataset_id: str, method: str, resume: bool, progress: Progress | None
) -> Operation[datasets_pb2.Dataset]:
    """`resume`: what an earlier attempt left is the beginning of these very bytes."""
    offset = (yield from _committed(dataset_id)) if resume else 0
    backoff = Backoff(PATIENCE)
    while True:
        try:
            chunks = _chunks(source, dataset_id, method, min(offset, source.size), progress)
            return (yield Call("Datasets.UploadDataset", chunks, None))
        except _errors.FinetunedError as error:
            delay = backoff.delay(error.retry_after) if is_transient(error) else None
            if delay is None:
                raise
        yield Sleep(delay)
        before, offset = offset, (yield from _committed(dataset_id))
        if offset > before:
            backoff.reset()


def _chunks(
    source: Source, dataset_id: str, method: str, offset: int, progress: Progress | None
) -> Iterator[datasets_pb2.UploadDatasetRequest]:
    # pread: the thread of an attempt that has just failed may still be at its last chunk.
    while True:
        data = os.pread(source.file.fileno(), CHUNK, offset)
        end = offset + len(data)
        yield datasets_pb2.UploadDatasetRequest(
            dataset_id=dataset_id,
            method=method,
            write_offset=offset,
            data=data,
            crc32c=crc32c(data),
            finish=end >= source.size,
        )
        offset = end
        if progress is not None:
            progress(offset, source.size)
        if offset >= source.size:
            return


def download(adapter: adapters_pb2.Adapter, to: pathlib.Path, progress: Progress | None) -> Operation[pathlib.Path]:
    """The adapter as a PEFT folder. Files that are already there whole are kept; a partial one goes on at its
    end."""
    to.mkdir(parents=True, exist_ok=True)
    for file in adapter.files:
        if pathlib.PurePosixPath(file.file).name != file.file or file.file in ("", ".", ".."):
            raise _errors.InternalError(f"the daemon sent a file name with a path: {file.file!r}")
        if _sha256(to / file.file) != file.sha256:
            yield from _download_file(adapter.name, file, to, progress)
    return to


def _sha256(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _download_file(
    adapter: str, file: adapters_pb2.AdapterFile, to: pathlib.Path, progress: Progress | None
) -> Operation[None]:
    partial = to / (file.file + ".part")
    backoff = Backoff(PATIENCE)
    while True:
        try:
            yield from _append(adapter, file, partial, progress, backoff)
            break
        except _errors.FinetunedError as error:
            delay = backoff.delay(error.retry_after) if is_transient(error) else None
            if delay is None:
                raise
        yield Sleep(delay)
    if _sha256(partial) != file.sha256:
        partial.unlink()
        raise _errors.ChecksumMismatch(f"{file.file}: checksum differs; download it again")
    partial.replace(to / file.file)


def _append(
    adapter: str, file: adapters_pb2.AdapterFile, partial: pathlib.Path, progress: Progress | None, backoff: Backoff
) -> Operation[None]:
    done = partial.stat().st_size if partial.exists() else 0
    if done > file.size_bytes:
        partial.unlink()
        done = 0
    with open(partial, "ab") as out:
        stream: Any = yield Open(
            "Adapters.DownloadAdapter",
            adapters_pb2.DownloadAdapterRequest(name=adapter, file=file.file, read_offset=done),
        )
        while (chunk := (yield Read(stream))) is not None:
            if crc32c(chunk.data) != chunk.crc32c:
                raise _errors.ChecksumMismatch(f"{file.file}: a chunk arrived damaged; download it again")
            out.write(chunk.data)
            backoff.reset()
            done += len(chunk.data)
            if progress is not None:
                progress(done, file.size_bytes)
