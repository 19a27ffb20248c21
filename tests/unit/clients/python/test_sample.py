"""Sampling against scripted answers."""

import finetuned
import pytest
from finetuned import _ops
from finetuned.v1 import adapters_pb2, jobs_pb2, state_pb2
from test_effects import away, play


def piece(index, text, tokens, **last):
    return adapters_pb2.SampleResponse(index=index, text=text, tokens=tokens, logprobs=[-0.5] * len(tokens), **last)


def test_pieces_of_several_samples_are_put_together():
    end = {"finish_reason": "stop", "prompt_tokens": 7, "tokens_per_second": 30.0}
    pieces = [piece(1, "b", [3]), piece(0, "Hel", [1]), piece(0, "lo", [2], **end), piece(1, "ye", [4], **end)]
    first, second = _ops.collect(pieces)
    assert str(first) == "Hello" and first.tokens == [1, 2] and first.logprobs == [-0.5, -0.5]
    assert second.text == "bye" and second.finish_reason == "stop" and second.prompt_tokens == 7


@pytest.mark.parametrize(
    "target, field, name",
    [
        ("adapters/a", "adapter", "adapters/a"),
        ("jobs/j/checkpoints/4", "checkpoint", "jobs/j/checkpoints/4"),
        ("smollm2", "base_model", "models/smollm2"),
        ("models/m", "base_model", "models/m"),
    ],
)
def test_targets_and_options_reach_their_fields(target, field, name):
    options = {"max_tokens": 9, "temperature": 0.0, "stop": ["\n"], "seed": 3}
    request = _ops.sample_request(target, "hi", options)
    assert request.WhichOneof("target") == field and getattr(request, field) == name
    assert (request.prompt, request.max_tokens, list(request.stop), request.seed) == ("hi", 9, ["\n"], 3)


def test_a_misspelt_option_gets_a_proposal():
    with pytest.raises(finetuned.InvalidArgument, match='temprature: is not a field; did you mean "temperature"'):
        _ops.sample_request("m", "hi", {"temprature": 1})


def test_a_job_stands_for_its_adapter():
    job = jobs_pb2.Job(name="jobs/j", state=state_pb2.SUCCEEDED, output_adapter="adapters/a")
    answers = [job, adapters_pb2.Adapter(name="adapters/a"), "stream", piece(0, "x", [1]), None]
    _, effects, emitted = play(_ops.stream_sample("jobs/j", "hi", {}), answers)
    assert effects[2].request.adapter == "adapters/a" and [p.text for p in emitted] == ["x"]
    with pytest.raises(finetuned.WrongState, match="jobs/j is RUNNING and has no adapter yet"):
        play(_ops.stream_sample("jobs/j", "hi", {}), [jobs_pb2.Job(name="jobs/j", state=state_pb2.RUNNING)])


def test_a_broken_stream_is_not_started_again_behind_the_reader_s_back():
    with pytest.raises(finetuned.Unavailable):
        play(_ops.stream_sample("smollm2", "hi", {}), ["stream", piece(0, "x", [1]), away()])
