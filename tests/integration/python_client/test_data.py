import concurrent.futures

import finetuned
import pandas
import pytest
from conftest import QUICK, ROWS
from finetuned import _rows, _transfer


def test_the_same_rows_again_are_not_sent_again(ft):
    first = ft.upload(ROWS)
    sent = []
    again = ft.upload(pandas.DataFrame(ROWS), progress=lambda done, total: sent.append(done))
    assert again.name == first.name and not sent
    assert first.state == "ACTIVE" and first.rows == 20 and first.proto.method == "sft"
    assert first.name in [d.name for d in ft.datasets(limit=None)]


def test_a_file_is_the_same_dataset_as_by_the_command_line(ft, daemon, tmp_path):
    path = tmp_path / "some_rows.jsonl"
    path.write_text('{"text": "a b c"}\n{"text": "d e f"}\n')
    uploaded = daemon.cli("upload", path).stdout
    sent = []
    assert ft.upload(path, progress=lambda done, total: sent.append(done)).name in uploaded and not sent


def test_wrong_rows_are_named_by_line_and_field(ft):
    rows = ["not a role", "system"]
    rows = [{"messages": [{"role": "user", "content": "x"}, {"role": r, "content": "y"}]} for r in rows]
    with pytest.raises(finetuned.DatasetInvalid) as error:
        ft.upload(rows)
    assert error.value.dataset.error_count >= 1
    assert any(v.field.startswith("line 1, messages[1].role") for v in error.value.violations)
    assert "line 1, messages[1].role" in str(error.value)


def test_odd_rows_are_warned_about(ft):
    with pytest.warns(finetuned.DatasetWarning, match="1 warnings\n  line 2, text: "):
        ft.upload([{"text": "something"}, {"text": " "}])


def test_a_named_dataset_keeps_its_rows(ft):
    assert ft.upload(ROWS[:5], name="mine").name == "datasets/mine"
    assert ft.upload(ROWS[:5], name="mine").rows == 5
    with pytest.raises(finetuned.AlreadyExists, match="other rows"):
        ft.upload(ROWS[:6], name="mine")
    ft.delete_dataset("mine")
    with pytest.raises(finetuned.NotFound):
        ft.dataset("mine")


class Breaks:
    """A file-like source whose n-th chunk is never sent: the connection looks broken."""

    def __init__(self, monkeypatch, at):
        self.offsets, self.at = [], at
        whole = _transfer._chunks

        def chunks(source, dataset_id, method, offset, progress):
            self.offsets.append(offset)
            for i, chunk in enumerate(whole(source, dataset_id, method, offset, progress)):
                if len(self.offsets) == 1 and i == self.at:
                    return
                yield chunk

        monkeypatch.setattr(_transfer, "_chunks", chunks)


def test_a_broken_upload_goes_on_where_it_stopped(ft, monkeypatch):
    """The stream ends early; the next upload of the same rows starts at the committed size."""
    rows = [{"text": f"{i} " + "x" * 1000} for i in range(3000)]
    breaks = Breaks(monkeypatch, at=2)
    partial = ft._do(_transfer.upload(rows, "sft", None, None))
    assert partial.state == partial.UPLOADING
    dataset = ft.upload(rows)
    assert dataset.rows == 3000 and breaks.offsets == [0, 2 << 20]
    assert dataset.proto.sha256 == _rows.open_rows(rows).sha256


def test_two_uploads_of_the_same_rows_at_once(ft):
    rows = [{"text": f"{i} twice " + "x" * 1000} for i in range(3000)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: ft.upload(rows), range(2))
    assert first.name == second.name and first.rows == second.rows == 3000


def test_preview_shows_what_trains(ft):
    preview = ft.preview(ROWS, "tiny", rows=2)
    assert len(preview) == 2 and preview.trained_text(0) == "0 is a number<eos>"
    assert "<span" in preview._repr_html_()


def test_a_plan_adds_up_and_names_its_choices(ft):
    plan = ft.plan(**QUICK)
    assert plan.admissible and plan.total_bytes == sum(plan.components().values()) > 0
    assert plan.resolved_spec["lora"]["alpha"] == 8
    assert "would be accepted" in str(plan) and "accepted" in plan._repr_html_()


def test_the_daemon_s_findings_arrive_as_violations(ft):
    with pytest.raises(finetuned.InvalidArgument) as error:
        ft.submit(**QUICK | {"lora": {"rank": -1, "dropout": 7}})
    assert {v.field for v in error.value.violations} == {"job.spec.lora.rank", "job.spec.lora.dropout"}
    assert error.value.reason == "INVALID_FIELD"
    with pytest.raises(finetuned.FinetunedError, match="nowhere is not known"):
        ft.plan(**QUICK | {"model": "nowhere"})


def test_nobody_there_is_said_with_what_to_do(tmp_path):
    with pytest.raises(finetuned.DaemonUnreachable, match="start it with: finetuned"):
        finetuned.connect(f"unix://{tmp_path}/none.sock")
    with pytest.raises(finetuned.InvalidArgument, match="belong together"):
        finetuned.connect("localhost:1", cert="a")
