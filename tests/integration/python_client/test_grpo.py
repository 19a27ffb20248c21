"""GRPO from end to end: daemon, worker, and rewards computed in this process."""

import math
import time

import finetuned
import pytest
from finetuned import reward

ROWS = [{"prompt": f"what is {i}?", "answer": str(i)} for i in range(8)]
FIELDS = {
    "model": "tiny",
    "data": ROWS,
    "lora": {"rank": 4},
    "quantization": {"base": "none"},
    "schedule": {"max_steps": 3, "max_seq_length": 64, "micro_batch_size": 4, "gradient_accumulation_steps": 1},
}


@reward
def mine(completion, answer):
    return None if completion == answer else len(completion) % 3


def wait_for(job, state):
    for _ in range(600):
        if job.refresh().state == state:
            return
        time.sleep(0.05)
    raise AssertionError(f"{job.state}: {job.proto.state_message}")


def test_built_in_rewards(ft):
    grpo = {"group_size": 2, "max_completion_tokens": 6, "builtin_rewards": [{"name": "regex", "args": {"pattern": "a"}}]}
    job = ft.submit(FIELDS | {"grpo": grpo}).wait()
    steps = [e for e in job.events(types=["metrics"]) if e.kind == "metrics"]
    assert len(steps) == 3 and "rewards/regex/mean" in steps[0].values
    samples = [e for e in job.events(types=["sample"]) if e.kind == "sample"]
    assert len(samples) == 3 * 4 and set(samples[0].data.rewards) == {"regex"}


def test_a_job_waits_paused_until_its_rewards_are_served(ft):
    remote = {"reward_names": ["mine"], "worker_grace": "1s"}
    job = ft.submit(FIELDS | {"grpo": {"group_size": 2, "max_completion_tokens": 6, "remote_reward": remote}})
    wait_for(job, "PAUSED")
    assert "no reward worker" in job.proto.state_message
    with job.serve_rewards(mine) as server:
        job.wait()
        assert server.scored == 3 * 4
        server.wait(20)  # the daemon sends it home
        assert not server.running


def test_rewards_that_give_no_number_are_counted_or_named(ft):
    @reward
    def moody(completion, answer):
        return {"0": float("nan"), "1": float("inf"), "2": None, "3": "text", "4": []}.get(answer, len(completion))

    remote = {"reward_names": ["moody"], "max_attempts": 1}
    grpo = {"group_size": 2, "max_completion_tokens": 6, "remote_reward": remote, "prompts_per_rollout": 8}
    schedule = FIELDS["schedule"] | {"max_steps": 1, "gradient_accumulation_steps": 4}
    job = ft.submit(FIELDS | {"grpo": grpo, "schedule": schedule})
    with job.serve_rewards(moody):
        job.wait()
    events = list(job.events(types=["metrics", "warning"]))
    step = next(e for e in events if e.kind == "metrics").values
    # Three groups abstain, two cannot be scored; their completions count as abstained, too.
    assert step["rewards/dropped_groups"] == 2 and step["rewards/abstained"] == 5 * 2
    warnings = " ".join(e.data.text for e in events if e.kind == "warning")
    assert "reward moody returned 'text'; return a number, or None to abstain" in warnings
    assert "reward moody returned []" in warnings
    assert all(math.isfinite(v) for v in step.values())


def test_an_unknown_reward_is_refused_with_the_nearest(ft):
    with pytest.raises(finetuned.InvalidArgument, match="did you mean numeric"):
        ft.submit(FIELDS | {"grpo": {"builtin_rewards": [{"name": "numerc"}]}})
