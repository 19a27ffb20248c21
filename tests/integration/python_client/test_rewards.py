"""Rewards that this process computes, asked for by the real daemon."""

import asyncio
import math
import time

import finetuned
import pytest
from finetuned import aio, reward


@reward
def right(completion, answer):
    return None if completion == "?" else completion == answer


def evaluate(ft, *args, **keywords):
    """Again while the worker's greeting is still on its way."""
    for _ in range(100):
        try:
            return ft.evaluate_reward(*args, **keywords)
        except finetuned.WrongState:
            time.sleep(0.05)
    raise AssertionError("nobody serves the reward")


def test_the_daemon_asks_this_process(ft):
    with ft.serve_rewards(right) as server:
        values = evaluate(ft, "right", ["4", "5", "?"], prompt="2 + 2", columns={"answer": ["4"] * 3})
        assert values[:2] == [1, 0] and math.isnan(values[2]) and server.scored == 3
        with pytest.raises(finetuned.FinetunedError, match="reward right wants answer"):
            ft.evaluate_reward("right", ["4"])


def test_builtin_rewards_can_be_tried(ft):
    assert ft.evaluate_reward({"name": "regex", "args": {"pattern": "^a"}}, ["ab", "ba"]) == [1, 0]
    with pytest.raises(finetuned.InvalidArgument, match="one value per completion"):
        ft.evaluate_reward({"name": "exact"}, ["a"], columns={"answer": "a"})


def test_a_job_without_remote_rewards_says_so(long_job):
    server = long_job.serve_rewards(right)
    with pytest.raises(finetuned.WrongState, match="computes no rewards outside"):
        server.wait(20)
    assert not server.running


def test_the_twin(server):
    @reward
    async def later(completion):
        await asyncio.sleep(0)
        return len(completion)

    async def body():
        async with await aio.connect(server) as client:
            with client.serve_rewards(later):
                for _ in range(100):
                    try:
                        return await client.evaluate_reward("later", ["abc"])
                    except finetuned.WrongState:
                        await asyncio.sleep(0.05)

    assert asyncio.run(body()) == [3]
