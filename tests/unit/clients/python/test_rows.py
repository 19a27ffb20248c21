import json

import numpy
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from finetuned import InvalidArgument, _rows

ROWS = [{"prompt": "1 + 1", "completion": "2"}, {"prompt": 'ä\n"', "completion": "3"}]


def lines(data):
    source = _rows.open_rows(data)
    source.file.seek(0)
    text = source.file.read()
    assert len(text) == source.size
    return [json.loads(line) for line in text.splitlines()]


class HuggingFaceDataset:
    """As datasets.Dataset: iterates over dicts, knows its columns."""

    column_names = ["prompt", "completion"]

    def __iter__(self):
        return iter(ROWS)


class DatasetDict(dict):
    column_names = {"train": ["a"], "test": ["a"]}


def test_every_kind_of_rows_gives_the_same_lines_and_the_same_id(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS))
    kinds = [
        ROWS,
        iter(ROWS),
        pandas.DataFrame(ROWS),
        table,
        HuggingFaceDataset(),
        tmp_path / "rows.parquet",
        str(tmp_path / "rows.jsonl"),
    ]
    ids = set()
    for data in kinds:
        data = list(data) if hasattr(data, "__next__") else data
        assert lines(data) == ROWS
        ids.add(_rows.open_rows(data).dataset_id("sft"))
    assert len(ids) == 1


def test_what_tables_fill_gaps_with_is_left_out():
    data = pandas.DataFrame([{"prompt": "a", "label": True, "score": 1.5}, {"prompt": "b", "label": None}])
    assert lines(data) == [{"prompt": "a", "label": True, "score": 1.5}, {"prompt": "b"}]
    nested = [{"messages": numpy.array([{"role": "user", "content": "x", "tool_calls": None}], dtype=object)}]
    assert lines(nested) == [{"messages": [{"role": "user", "content": "x"}]}]


def test_ids_are_those_of_the_command_line(tmp_path):
    path = tmp_path / "My Rows.2.jsonl"
    path.write_text("{}\n")
    assert _rows.open_rows(path).dataset_id("dpo") == "my-rows-2-dpo-ca3d163bab05"
    digits = tmp_path / "2024.jsonl"
    digits.write_text("{}\n")
    assert _rows.open_rows(digits).dataset_id("sft").startswith("d2024-sft-")


@pytest.mark.parametrize(
    "data, message",
    [
        ({"prompt": "a"}, "one mapping"),
        (["text"], "row 1 .* is a str"),
        ([{"a": object()}], "row 1, a: a object"),
        (3, "int"),
        (DatasetDict(), 'splits train, test; choose one: data\\["train"\\]'),
        ("/no/such.jsonl", "cannot read"),
        ("/no/such.parquet", "cannot read"),
        ("/tmp", "directory"),
    ],
)
def test_what_is_no_data_is_said(data, message):
    with pytest.raises(InvalidArgument, match=message):
        _rows.open_rows(data)
