"""What people see, from events made here."""

import io
import math
import struct
import xml.etree.ElementTree as ElementTree

import pytest
from finetuned import Event, InvalidArgument, _html, _metrics, _screen, _text
from finetuned._job_view import JobView, WatchState
from finetuned._values import Plan, Series
from finetuned.exporters import TensorBoardSink
from finetuned.v1 import events_pb2, jobs_pb2, state_pb2


def job(**fields):
    proto = jobs_pb2.Job(name="jobs/x", state=state_pb2.RUNNING, **fields)
    proto.spec.base_model = "models/<tiny>"
    proto.spec.sft.SetInParent()
    proto.memory.total_bytes = 2_000_000_000
    return JobView(proto)


def metrics(step, time=0, **values):
    event = events_pb2.Event(sequence=step, metrics=events_pb2.MetricPoint(step=step, epoch=step / 10, values=values))
    event.time.seconds = 1_700_000_000 + time
    return Event(event, b"")


def change(before, to, message=""):
    changed = events_pb2.StateChanged(to=to, message=message)
    setattr(changed, "from", before)
    return Event(events_pb2.Event(state_changed=changed), b"")


def run(screen, steps=40):
    with screen:
        screen.show(change(state_pb2.QUEUED, state_pb2.RUNNING))
        screen.show(Event(events_pb2.Event(planned=events_pb2.RunPlanned(total_steps=steps)), b""))
        for i in range(1, steps + 1):
            screen.show(metrics(i, loss=4 - i * 0.05, tokens_per_second=12_345, step_time=0.5))
        screen.show(
            Event(events_pb2.Event(checkpoint=events_pb2.CheckpointSaved(step=steps, size_bytes=3_000_000)), b"")
        )
        screen.show(change(state_pb2.RUNNING, state_pb2.FAILED, "[bold]disk full"))
    return screen.out.getvalue()


def test_plain_lines_are_few():
    lines = run(_screen.PlainScreen(job(), io.StringIO())).splitlines()
    assert "step 40/40  loss 2.0000  tokens/s 12.3k  ETA 0s" in lines and "checkpoint at step 40 (3.00 MB)" in lines
    assert lines[-1] == "x  SFT  models/<tiny>  FAILED  [bold]disk full"
    assert len(lines) < 26


def test_rich_draws_in_place_and_takes_text_literally():
    out = run(_screen.RichScreen(job(), io.StringIO()))
    assert "40/40 steps" in out and "[bold]disk full" in out and "checkpoint at step 40" in out


def test_quiet_says_nothing_and_modes_are_checked():
    assert run(_screen.choose("quiet", job(), io.StringIO())) == ""
    assert isinstance(_screen.choose("auto", job(), io.StringIO()), _screen.PlainScreen)
    with pytest.raises(InvalidArgument, match="auto, notebook, rich, plain, quiet"):
        _screen.choose("colour", job())


def test_steps_run_again_by_a_later_attempt_replace_the_old_curve():
    view = WatchState(job())
    for step, loss in [(1, 4.0), (2, 3.0), (3, 2.5), (2, 3.1), (3, 2.4)]:
        view.apply(metrics(step, loss=loss))
    assert view.losses == [(1, 4.0), (2, 3.1), (3, 2.4)]


def test_rewards_have_a_chart_of_their_own():
    view = WatchState(job())
    for step in (1, 2, 1, 2):
        view.apply(metrics(step, loss=0.0, reward=step / 2))
    held_out = events_pb2.EvalResult(step=2, values={"eval_reward": 0.75})
    note = view.apply(Event(events_pb2.Event(eval=held_out), b""))
    assert view.rewards == [(1, 0.5), (2, 1.0)] and view.eval_rewards == [(2, 0.75)] and "eval_reward 0.7500" in note
    assert view.html().count("<svg") == 2 and "held-out reward" in view.html()


def test_html_is_well_formed_and_escaped():
    view = WatchState(job())
    for step in range(1, 600):
        view.apply(metrics(step, loss=math.nan if step == 7 else 4 / step))
    text = view.html()
    assert "<tiny>" not in text and "models/&lt;tiny&gt;" in text
    ElementTree.fromstring("<r>" + text.replace("&nbsp;", " ") + "</r>")
    chart = _html.line_chart({"loss": view.losses})
    assert "nan" not in chart and chart.count(",") < 500


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 2.0), (2, 2.0)], [(0, 0.0)], [(5, -1e9), (6, 1e9)]])
def test_charts_of_few_or_flat_points(points):
    ElementTree.fromstring(_html.line_chart({"a": points}))


def test_charts_of_nothing_are_empty():
    assert _html.line_chart({"a": [], "b": [(1, math.inf)]}) == ""


def test_numbers_for_people():
    assert [_text.bytes_text(n) for n in (12, 1_200, 3_456_789, 24e9)] == ["12 B", "1.20 kB", "3.46 MB", "24.00 GB"]
    assert [_text.duration_text(s) for s in (5, 65, 3700, math.nan)] == ["5s", "1m 05s", "1h 01m", "-"]
    assert [_text.count_text(n) for n in (9_999, 12_345, 5e7, math.inf)] == ["9999", "12.3k", "50.0M", "-"]
    assert (
        _text.sparkline([0, 1, math.nan, 2, 3]) == "▁▃▆█"
        and _text.sparkline([]) == ""
        and _text.sparkline([1, 1]) == "▁▁"
    )


def test_a_refused_plan_says_what_fits():
    proto = jobs_pb2.JobPlan(admissible=False)
    proto.memory.total_bytes, proto.memory.budget_bytes = 27_100_000_000, 23_300_000_000
    proto.memory.items.add(component="weights", name="base", bytes=27_100_000_000)
    proto.suggestions.add(message="micro_batch_size 4 -> 2: 22.0 GB")
    plan = Plan(proto)
    text = str(plan)
    assert "budget 23.30 GB" in text and "fits: micro_batch_size 4 -> 2: 22.0 GB" in text and text.endswith("refused.")
    ElementTree.fromstring("<r>" + plan._repr_html_().replace("&nbsp;", " ") + "</r>")


def test_frames_join_series_of_different_steps():
    frame = _metrics.frame({"loss": Series([1, 2], [3.0, 2.0], [10.0, 11.0]), "eval_loss": Series([2], [2.5], [11.5])})
    assert list(frame.index) == [1, 2] and math.isnan(frame.eval_loss[1]) and frame.eval_loss[2] == 2.5
    assert frame.time[1].timestamp() == 10.0 and frame.index.name == "step"


def test_tensorboard_files_have_sound_frames(tmp_path):
    with TensorBoardSink(tmp_path) as sink:
        sink.write(metrics(300, loss=2.5))
        sink.write(change(state_pb2.QUEUED, state_pb2.RUNNING))
    data = next(tmp_path.iterdir()).read_bytes()
    frames = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        frames.append(data[12 : 12 + length])
        data = data[16 + length :]
    assert len(frames) == 2 and b"brain.Event:2" in frames[0] and b"train/loss" in frames[1]
