"""Following jobs: nothing lost, nothing twice, whatever happens in between."""

import io
import sys
import threading
import time

import finetuned
import pytest
from conftest import LONG, QUICK, start_daemon


def test_every_event_comes_once_and_tokens_go_on_after_it(done):
    events = list(done.events())
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    middle = events[len(events) // 2]
    rest = [e.sequence for e in done.events(resume_token=middle.resume_token)]
    assert rest == list(range(middle.sequence + 1, len(events) + 1))


def test_kinds_and_intervals_thin_the_stream(done):
    assert {e.kind for e in done.events(types=["eval"])} == {"eval", "state_changed"}
    assert len(list(done.events(types=["metrics"], metric_interval=3600))) < 5


def test_watch_prints_lines_and_refreshes_the_job(ft, capsys):
    seen = []
    job = ft.submit(**QUICK)
    job.watch("plain", on_event=seen.append)
    out = capsys.readouterr().out
    assert job.state == "SUCCEEDED" and "step 12/12  loss" in out and "SUCCEEDED" in out
    assert [e.sequence for e in seen] == list(range(1, len(seen) + 1))


def test_rich_watch_in_a_terminal(done, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    done.watch()
    assert "12/12 steps" in sys.stdout.getvalue() and "loss" in sys.stdout.getvalue()


def test_interrupting_a_watch_detaches(long_job, capsys):
    def interrupt(event):
        raise KeyboardInterrupt

    long_job.watch("quiet", on_event=interrupt)
    assert "the job goes on" in capsys.readouterr().out and long_job.state == "RUNNING"


def test_a_panel_follows_and_its_buttons_act(ft, long_job):
    panel = long_job.panel()
    deadline = time.monotonic() + 10  # it goes through the job's earlier states first
    while panel.buttons["Finish now"].disabled and time.monotonic() < deadline:
        time.sleep(0.02)
    assert panel.buttons["Resume"].disabled and not panel.buttons["Finish now"].disabled
    panel.buttons["Resume"].click()
    assert "RUNNING" in panel.said.value
    panel.buttons["Finish now"].click()
    panel.thread.join(60)
    assert "SUCCEEDED" in panel.chart.value and "<svg" in panel.chart.value
    assert panel.buttons["Cancel"].layout.display == "none"


def test_leaving_early_cancels_the_stream_and_leaves_the_job(ft, long_job):
    for event in long_job.events():
        if event.kind == "metrics":
            break
    assert long_job.refresh().state == "RUNNING"


@pytest.mark.parametrize("how", ["kill", "drain"])
def test_a_watch_survives_the_daemon_and_sees_everything_once(how):
    daemon = start_daemon()
    with finetuned.connect(f"unix://{daemon.socket}") as ft:
        job = ft.submit(LONG, name="storm")
        started, seen = threading.Event(), []

        def follow():
            for event in job.events():
                seen.append(event)
                if event.kind == "metrics" and event.step >= 5:
                    started.set()

        follower = threading.Thread(target=follow)
        follower.start()
        assert started.wait(60)
        if how == "drain":
            ft.drain("30s")
            assert daemon.process.wait(60) == 0
        else:
            daemon.kill()
        daemon.start()
        # The calls below also start while the connection is broken: they are repeated by themselves.
        job.refresh()
        next(job.events(types=["metrics"], from_now=True))
        job.stop().wait()
        follower.join(60)
        assert not follower.is_alive() and job.refresh().proto.attempt >= 2
        assert [e.sequence for e in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].sequence == job.logs()[-1].sequence
    daemon.terminate()
