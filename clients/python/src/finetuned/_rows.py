"""Training rows from whatever a notebook has at hand, as the JSON lines that the daemon keeps."""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from ._errors import InvalidArgument, MissingDependency

# What upload(), submit() and plan() take as data.
RowData = str | pathlib.Path | Iterable[Any]


@dataclasses.dataclass
class Source:
    """JSON lines, ready to be sent."""

    file: IO[bytes]
    size: int
    sha256: str
    stem: str  # what the dataset is called when the user gives no name
    label: str  # for error messages

    def dataset_id(self, method: str) -> str:
        """The same for the same bytes, and as the command line chooses it: a second upload costs nothing."""
        stem = re.sub(r"[^a-z0-9]+", "-", self.stem.lower())[:40]
        stem = stem.lstrip("-") if stem.lstrip("-")[:1].isalpha() else "d" + stem
        return f"{stem.rstrip('-')}-{method}-{self.sha256[:12]}"


def is_dataset_name(data: Any) -> bool:
    return isinstance(data, str) and data.startswith("datasets/")


def open_rows(data: RowData) -> Source:
    """InvalidArgument where `data` holds no rows."""
    if isinstance(data, (str, pathlib.Path)):
        path = pathlib.Path(data).expanduser()
        if path.suffix.lower() in (".parquet", ".pq"):
            return _spool(_parquet_rows(path), path.stem, str(path))
        return _open_file(path)
    return _spool(_rows_of(data), "rows", f"the {type(data).__name__}")


def _open_file(path: pathlib.Path) -> Source:
    try:
        file = open(path, "rb")
    except IsADirectoryError:
        raise InvalidArgument(f"{path} is a directory; a JSONL or Parquet file is needed") from None
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
    digest = hashlib.file_digest(file, "sha256")
    return Source(file, file.tell(), digest.hexdigest(), path.stem, str(path))


def _spool(rows: Iterable[Any], stem: str, label: str) -> Source:
    file = tempfile.TemporaryFile()
    digest = hashlib.sha256()
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InvalidArgument(
                f"row {number} of {label} is a {type(row).__name__}; rows are dicts, as in "
                '{"messages": [...]} or {"prompt": ..., "completion": ...}'
            )
        line = json.dumps(_plain(row, f"row {number}"), ensure_ascii=False).encode() + b"\n"
        digest.update(line)
        file.write(line)
    file.flush()
    return Source(file, file.tell(), digest.hexdigest(), stem, label)


def _rows_of(data: Any) -> Iterable[Any]:
    """A list, generator or Hugging Face dataset gives dicts by itself; tables are asked for them."""
    if hasattr(data, "column_names") and isinstance(data.column_names, dict):
        raise InvalidArgument(f'data holds the splits {", ".join(data.column_names)}; choose one: data["train"]')
    if hasattr(data, "iter_rows"):  # polars
        return data.iter_rows(named=True)
    if hasattr(data, "to_pylist"):  # pyarrow
        return data.to_pylist()
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):  # pandas
        return data.to_dict(orient="records")
    if isinstance(data, Mapping):
        raise InvalidArgument("data is one mapping; give a list of rows: [row, ...]")
    if not isinstance(data, Iterable):
        raise InvalidArgument(
            f"data is a {type(data).__name__}; give a list of dicts, a DataFrame, a dataset, or the "
            "path of a JSONL or Parquet file"
        )
    return data


def _parquet_rows(path: pathlib.Path) -> Iterator[Any]:
    if not path.is_file():
        raise InvalidArgument(f"cannot read {path}: no such file")
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependency("Parquet files need pyarrow: pip install 'finetuned[parquet]'") from None
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


def _plain(value: Any, where: str) -> Any:
    """As json takes it. Missing values (None, NaN, NA) of a row are left out: tables fill gaps with them."""
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}, {k}") for k, v in value.items() if not _is_missing(v)}
    if hasattr(value, "tolist"):  # numpy arrays and numbers
        return _plain(value.tolist(), where)
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if _is_missing(value):
        return None
    raise InvalidArgument(f"{where}: a {type(value).__name__} is no JSON value")
