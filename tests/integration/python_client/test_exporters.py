"""Trackers read back what the exporters wrote."""

import struct
import time

import mlflow
import pytest
from conftest import QUICK
from finetuned import exporters
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2


def test_tensorboard_reads_every_step(done, tmp_path):
    folder = exporters.to_tensorboard(done, tmp_path)
    found = EventAccumulator(str(folder)).Reload()
    loss = found.Scalars("train/loss")
    expected = done.logs("metrics")
    assert [e.step for e in loss] == [e.step for e in expected] == list(range(1, 13))
    assert [e.value for e in loss] == pytest.approx([e.values["loss"] for e in expected], rel=1e-6)
    assert [e.wall_time for e in loss] == pytest.approx([e.time.timestamp() for e in expected], abs=0.01)
    assert [e.step for e in found.Scalars("eval/loss")] == [4, 8, 12]


def test_mlflow_has_the_run_with_settings_and_metrics(done, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no database
    uri = f"file://{tmp_path}/mlruns"
    run_id = exporters.to_mlflow(done, experiment="names", tracking_uri=uri)
    client = mlflow.MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "done"
    assert run.data.params["lora.rank"] == "4" and run.data.tags["label.team"] == "nlp"
    assert sorted(m.step for m in client.get_metric_history(run_id, "loss")) == list(range(1, 13))
    assert run.data.metrics["eval_loss"] == pytest.approx(done.series("eval_loss")["eval_loss"].values[-1])


def test_wandb_gets_every_step_offline(done, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    exporters.to_wandb(done, project="names", mode="offline", dir=str(tmp_path))
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.time() + 30  # its process writes the last records after finish() has returned
    while len(_wandb_steps(file).get("step", [])) < 15 and time.time() < deadline:
        time.sleep(0.1)
    steps = _wandb_steps(file)
    assert steps["loss"] == list(range(1, 13)) and steps["eval_loss"] == [4, 8, 12]


def _wandb_steps(path):
    """Metric -> steps, from a run's file: a LevelDB log (blocks of 32 KiB; checksum, length, type) of Records."""
    data, position, records, partial = path.read_bytes(), 7, [], b""
    while position + 7 <= len(data):
        if position % 32768 > 32768 - 7:
            position += -position % 32768
        _, length, kind = struct.unpack_from("<IHB", data, position)
        partial += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(partial))
            partial = b""
    steps = {}
    for record in records:
        items = {i.key or ".".join(i.nested_key): i.value_json for i in record.history.item}
        for key in items:
            steps.setdefault(key, []).append(int(items["step"]))
    return steps


def test_a_running_job_is_exported_until_it_ends(ft, tmp_path):
    job = ft.submit(**QUICK)
    folder = exporters.to_tensorboard(job, tmp_path)
    assert job.state == "SUCCEEDED"
    assert len(EventAccumulator(str(folder)).Reload().Scalars("train/loss")) == 12
