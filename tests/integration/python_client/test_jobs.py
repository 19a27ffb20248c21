import json

import finetuned
from finetuned import _ops
import pytest
from conftest import QUICK, ROWS


def test_a_job_from_rows_to_a_peft_folder(ft, done, tmp_path):
    assert done.state == "SUCCEEDED" and done.step == done.total_steps == 12 and done.adapter == "adapters/done"
    assert done.resolved_spec["optimizer"]["learning_rate"] == 0.0002 and done.labels == {"team": "nlp"}
    folder = done.download(tmp_path / "a")
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    assert ft.adapter("done").proto.source_job == "jobs/done" and "adapters/done" in [a.name for a in ft.adapters()]


def test_a_download_goes_on_and_damage_is_found(done, tmp_path):
    whole = (done.download(tmp_path / "whole") / "adapter_model.safetensors").read_bytes()
    part = tmp_path / "again/adapter_model.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(whole[:1000])
    reached = []
    done.download(part.parent, progress=lambda at, size: reached.append((at, size)))
    assert (part.parent / "adapter_model.safetensors").read_bytes() == whole and not part.exists()
    done.download(part.parent, progress=lambda at, size: pytest.fail("it is there already"))
    (part.parent / "adapter_model.safetensors").unlink()
    part.write_bytes(b"?" + whole[1:1000])
    with pytest.raises(finetuned.ChecksumMismatch):
        done.download(part.parent)
    done.download(part.parent)
    assert (part.parent / "adapter_model.safetensors").read_bytes() == whole


def test_metrics_come_as_a_table(done):
    table = done.metrics()
    assert list(table.index) == list(range(1, 13)) and table.loss.notna().all()
    assert table.loss[12] == done.latest["loss"]
    assert table.eval_loss.dropna().index.tolist() == [4, 8, 12]
    assert list(done.metrics("loss").columns) == ["loss", "time"]
    assert done.series("loss")["loss"].steps == list(range(1, 13))
    assert [c.step for c in done.checkpoints()][-1:] == [12]


def test_long_histories_come_in_parts(done, monkeypatch):
    whole = done.metrics()
    monkeypatch.setattr(_ops, "STEPS_PER_CALL", 5)
    assert done.metrics().equals(whole)


def test_plot_draws_the_losses(done, tmp_path):
    axes = done.plot()
    assert [line.get_label() for line in axes.get_lines()] == ["eval_loss", "loss"]
    axes.figure.savefig(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_compare_shows_what_differs(ft, done):
    other = ft.submit(**QUICK | {"name": "other", "optimizer": {"learning_rate": 0.01}}).wait()
    both = finetuned.compare([done, other])
    assert both.differences["optimizer.learning_rate"] == ["0.0002", "0.01"] and "lora.rank" not in both.differences
    assert both.results["state"] == ["SUCCEEDED"] * 2 and len(both.frame().columns) == 2
    assert "svg" in both._repr_html_() and "learning_rate" in str(both)
    assert len(both.plot().get_lines()) == 2


def test_pause_resume_checkpoint_and_stop(ft, long_job):
    long_job.checkpoint()
    assert long_job.pause("30s").state in ("PAUSING", "PAUSED")
    for _ in long_job.events(types=["state_changed"]):
        if long_job.refresh().state == "PAUSED":
            break
    assert "USER_REQUESTED" in long_job.why()
    with pytest.raises(finetuned.WrongState, match="PAUSED"):
        long_job.pause()
    paused_at = long_job.step
    long_job.resume()
    for event in long_job.events(types=["metrics"], from_now=True):
        assert event.step > paused_at
        break
    assert long_job.stop().wait().state == "SUCCEEDED" and long_job.adapter


def test_cancel_says_why_and_wait_raises(ft, long_job):
    long_job.cancel("not needed")
    with pytest.raises(finetuned.JobFailed, match="CANCELLED") as error:
        long_job.wait()
    assert error.value.job is long_job
    assert long_job.wait(check=False).done


def test_update_labels_priority_and_hold(ft, long_job):
    held = ft.submit(**QUICK | {"scheduling": {"hold": True}, "name": "held"})
    held.update(labels={"a": "b"}, scheduling={"priority": 7, "hold": True})
    assert held.labels == {"a": "b"} and held.proto.scheduling.priority == 7 and "HELD" in held.why()
    assert [j.id for j in ft.jobs("labels.a = b")] == ["held"]
    held.cancel().wait(check=False)
    held.delete()
    with pytest.raises(finetuned.NotFound):
        ft.job("held")


def test_names_are_taken_once(ft, done):
    with pytest.raises(finetuned.AlreadyExists):
        ft.submit(**QUICK | {"name": "done"})


def test_job_files_of_the_command_line_work(ft, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "job.yaml").write_text(
        "base_model: models/tiny\ndataset: rows.jsonl\nlora: {rank: 4}\n"
        "quantization: {base: none}\nschedule: {max_steps: 2, max_seq_length: 64}\n"
    )
    assert ft.submit(tmp_path / "job.yaml", name="filed").wait().step == 2


def test_logs_hold_every_event_and_kinds_can_be_picked(done):
    events = done.logs()
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert [e.step for e in done.logs("eval")] == [4, 8, 12]
    assert events[-1].kind == "state_changed" and events[-1].time.tzinfo is not None


def test_html_of_every_handle(ft, done):
    assert "12/12" in done._repr_html_() and "done" in ft._repr_html_()
    assert "adapters/done" in ft.adapter("done")._repr_html_() and "20" in ft.upload(ROWS)._repr_html_()


def test_doctor_finds_everything_in_place(ft):
    checks = ft.doctor()
    assert all(ok for ok, _, _ in checks), checks
    assert any("model tiny" in what for _, what, _ in checks)
    assert ft.info().accepting_jobs


def test_a_repeated_submission_is_one_job(ft):
    """What a retry after a lost answer does: the same request_id gives the same job."""
    from finetuned.v1 import jobs_pb2

    requests = []
    start = ft._driver.connection.start

    def twice(method, request, timeout):
        if method == "Jobs.CreateJob":
            requests.append(start(method, request, timeout))
        return start(method, request, timeout)

    ft._driver.connection.start = twice
    try:
        job = ft.submit(**QUICK)
    finally:
        ft._driver.connection.start = start
    assert isinstance(requests[0], jobs_pb2.Job) and requests[0].name == job.name
    job.wait()
