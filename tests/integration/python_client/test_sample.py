"""Generation through the daemon: base, adapter, streamed, repeatable."""

import asyncio

import finetuned
import pytest
from finetuned import aio

OPTIONS = {"max_tokens": 8, "temperature": 1.0, "seed": 5, "raw": True}


def test_several_samples_are_whole_and_repeatable(ft):
    one, two = ft.sample("tiny", "what is 1?", num_samples=2, **OPTIONS)
    assert one.tokens != two.tokens
    for sample in (one, two):
        assert 0 < len(sample.tokens) == len(sample.logprobs) <= 8 and max(sample.logprobs) <= 0
        assert sample.finish_reason in ("stop", "length") and sample.prompt_tokens == 10
    assert [s.tokens for s in ft.sample("tiny", "what is 1?", num_samples=2, **OPTIONS)] == [one.tokens, two.tokens]


def test_the_stream_is_the_sample_in_pieces(ft):
    (whole,) = ft.sample("tiny", "what is 1?", **OPTIONS)
    assert "".join(ft.stream("tiny", "what is 1?", **OPTIONS)) == whole.text


def test_a_job_answers_with_its_adapter(ft, done):
    (by_job,) = done.sample("what is 1?", **OPTIONS | {"temperature": 0.0})
    (by_adapter,) = ft.sample("adapters/done", "what is 1?", **OPTIONS | {"temperature": 0.0})
    assert by_job.tokens == by_adapter.tokens


def test_wrong_options_are_named(ft):
    with pytest.raises(finetuned.InvalidArgument, match="top_p"):
        ft.sample("tiny", "x", top_p=2.0, raw=True)


def test_the_twin(server):
    async def body():
        async with await aio.connect(server) as client:
            (whole,) = await client.sample("tiny", "abc", **OPTIONS)
            pieces = [piece async for piece in client.stream("tiny", "abc", **OPTIONS)]
            return whole.text == "".join(pieces)

    assert asyncio.run(body())
