"""Retries, resumption and errors, with a daemon made of a script of answers."""

import pytest
from finetuned import _effects, _errors, _ops
from finetuned._effects import Call, Open, Read, Sleep
from finetuned.v1 import events_pb2, jobs_pb2


def away(retry_after=None):
    return _errors.Unavailable("away", retry_after=retry_after)


def play(operation, answers):
    """Runs an operation against scripted answers (exceptions are thrown in); returns (result, effects, emitted)."""
    effects, emitted, answer = [], [], None
    answers = iter(answers)
    while True:
        try:
            effect = operation.throw(answer) if isinstance(answer, Exception) else operation.send(answer)
        except StopIteration as stop:
            return stop.value, effects, emitted
        answer = None
        if isinstance(effect, _effects.Emit):
            emitted.append(effect.value)
            continue
        effects.append(effect)
        if not isinstance(effect, Sleep):
            answer = next(answers)


def test_a_repeated_mutation_keeps_its_request_id():
    ids = []

    def record(operation):
        answers = iter([away(), away(), jobs_pb2.Job(name="jobs/x")])
        answer = None
        while True:
            effect = operation.throw(answer) if isinstance(answer, Exception) else operation.send(answer)
            if isinstance(effect, Call):
                ids.append(effect.request.request_id)
                answer = next(answers)
            else:
                answer = None

    with pytest.raises(StopIteration):
        record(_ops.act("Pause", "jobs/x"))
    assert len(ids) == 3 and len(set(ids)) == 1 and len(ids[0]) == 36


def test_the_delay_the_daemon_asks_for_is_kept():
    _, effects, _ = play(_ops.get_job("x"), [away(retry_after=7.0), jobs_pb2.Job()])
    assert isinstance(effects[1], Sleep) and effects[1].seconds == 7.0


def test_two_at_the_same_thing_take_turns():
    busy = _errors.Conflict("the same upload runs", retry_after=1.0)
    assert play(_ops.get_job("x"), [busy, jobs_pb2.Job(name="jobs/x")])[0].name == "jobs/x"
    with pytest.raises(_errors.Conflict):
        play(_ops.get_job("x"), [_errors.Conflict("etag")])


def test_a_daemon_that_stays_away_is_given_up():
    with pytest.raises(_errors.Unavailable):
        play(_ops.get_job("x"), [away()] * 1000)


def test_other_errors_are_not_repeated():
    with pytest.raises(_errors.NotFound):
        play(_ops.get_job("x"), [_errors.NotFound("no")])


def test_delays_grow_with_jitter_and_end():
    backoff = _effects.Backoff(patience=100.0)
    delays = []
    while (d := backoff.delay(None)) is not None:
        delays.append(d)
    assert 0.05 <= delays[0] <= 0.1 and max(delays) <= 5.0 and sum(delays) <= 100.0 and len(delays) > 20
    backoff.reset()
    assert backoff.delay(None) <= 0.1


def response(sequence):
    return events_pb2.WatchJobResponse(
        event=events_pb2.Event(sequence=sequence, log=events_pb2.LogLine(text="x")), resume_token=b"t%d" % sequence
    )


def test_a_watch_goes_on_at_its_token():
    beat = events_pb2.WatchJobResponse(event=events_pb2.Event(heartbeat=events_pb2.Heartbeat()))
    opened = []

    def stream():
        answers = ["s", response(1), beat, response(2), away(), away(), "s", response(3), None]
        operation = _ops.watch("jobs/x", _ops.WatchOptions(from_now=True))
        answer, position, emitted = None, iter(answers), []
        while True:
            try:
                effect = operation.throw(answer) if isinstance(answer, Exception) else operation.send(answer)
            except StopIteration:
                return emitted
            answer = None
            if isinstance(effect, _effects.Emit):
                emitted.append(effect.value.sequence)
            elif isinstance(effect, Open):
                opened.append((effect.request.resume_token, effect.request.from_now))
                answer = next(position)
            elif isinstance(effect, Read):
                answer = next(position)

    assert stream() == [1, 2, 3]
    assert opened == [(b"", True), (b"t2", False), (b"t2", False)]
