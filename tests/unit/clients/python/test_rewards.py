"""Serving rewards against a daemon of ours in this process: leases, credits, failures, reconnects."""

import concurrent.futures
import json
import math
import queue
import threading
import time

import grpc
import pytest
from finetuned import FinetunedError, InvalidArgument, _connect, reward
from finetuned.rewards import RewardServer
from finetuned.v1 import rewards_pb2


class FakeDaemon:
    """Sends what the test puts into `send` (None ends the stream, an exception breaks it), keeps what it gets."""

    def __init__(self, directory):
        self.send, self.got, self.streams = queue.Queue(), queue.Queue(), 0
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        handler = grpc.stream_stream_rpc_method_handler(
            self._attach,
            request_deserializer=rewards_pb2.RewardWorkerMessage.FromString,
            response_serializer=rewards_pb2.RewardDispatch.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("finetuned.v1.Rewards", {"AttachRewardWorker": handler}),)
        )
        self.target = f"unix://{directory}/r.sock"
        assert self._server.add_insecure_port(self.target)
        self._server.start()

    def _attach(self, requests, context):
        self.streams += 1

        def read():
            try:
                for message in requests:
                    self.got.put(message)
            except grpc.RpcError:
                pass  # the client has left

        threading.Thread(target=read, daemon=True).start()
        while (message := self.send.get()) is not None:
            if isinstance(message, grpc.StatusCode):
                context.abort(message, "as the test wants it")
            yield message

    def next(self, kind, timeout=10):
        """The next message of a kind; others are passed over."""
        deadline = time.time() + timeout
        while True:
            message = self.got.get(timeout=max(0.01, deadline - time.time()))
            if message.HasField(kind):
                return getattr(message, kind)

    def batch(self, completions, batch_id="b1", epoch=1, lease=60.0, prompt="q", **columns):
        batch = rewards_pb2.RewardBatch(batch_id=batch_id, lease_epoch=epoch)
        batch.lease_expire_time.FromNanoseconds(int((time.time() + lease) * 1e9))
        for i, c in enumerate(completions):
            batch.items.add(
                prompt_id="p", completion_index=i, prompt_json=json.dumps(prompt), completion=c, columns=columns
            )
        self.send.put(rewards_pb2.RewardDispatch(batch=batch))


@pytest.fixture
def daemon(tmp_path):
    fake = FakeDaemon(tmp_path)
    yield fake
    fake.send.put(None)
    fake._server.stop(0)


def serve(daemon, *rewards, in_flight=2):
    return RewardServer(_connect.find(daemon.target, None, None, None, None, None), "jobs/x", rewards, in_flight)


@reward
def right(completion, answer):
    return answer in completion


@reward(weight=0.5, batch=True)
def shortest(completions, prompts):
    return [-len(c) - len(p) for c, p in zip(completions, prompts, strict=True)]


def test_batches_are_scored_against_credits(daemon):
    with serve(daemon, right, shortest, in_flight=3) as server:
        hello = daemon.next("hello")
        assert (
            hello.job == "jobs/x" and list(hello.reward_names) == ["right", "shortest"] and len(hello.code_sha256) == 64
        )
        assert daemon.next("credit").batches == 3
        daemon.batch(["it is 4", "5"], epoch=7, answer="4")
        result = daemon.next("result")
        assert (result.batch_id, result.lease_epoch) == ("b1", 7) and not result.HasField("error")
        assert {s.reward_name: list(s.values) for s in result.scores} == {"right": [1, 0], "shortest": [-8, -2]}
        assert daemon.next("credit").batches == 1
        assert server.scored == 2
        daemon.send.put(None)  # the job has ended
        server.wait(10)
        assert not server.running


def test_none_abstains_and_coroutines_and_one_argument_functions_work(daemon):
    @reward
    async def late(completion):
        return None if completion == "?" else 2

    @reward
    def text_length(text):
        return len(text)

    with serve(daemon, late, text_length):
        daemon.batch(["?", "abc"])
        scores = {s.reward_name: list(s.values) for s in daemon.next("result").scores}
        assert math.isnan(scores["late"][0]) and scores["late"][1] == 2 and scores["text_length"] == [1, 3]


def test_conversations_arrive_as_lists(daemon):
    @reward
    def turns(prompt):
        return len(prompt) if isinstance(prompt, list) else -1

    with serve(daemon, turns):
        daemon.batch(["a"], prompt=[{"role": "user", "content": "x"}, {"role": "user", "content": "y"}])
        assert list(daemon.next("result").scores[0].values) == [2]


def test_a_failing_reward_answers_with_its_error_and_goes_on(daemon):
    @reward
    def broken(completion):
        return 1 / len(completion)

    with serve(daemon, broken) as server:
        daemon.batch([""])
        result = daemon.next("result")
        assert result.error.message == "reward broken: ZeroDivisionError: division by zero" and not result.scores
        assert server.failed == 1
        daemon.batch(["ab"], batch_id="b2")
        assert list(daemon.next("result").scores[0].values) == [0.5]


def test_what_is_no_number_is_named(daemon):
    @reward
    def talks(completion):
        return {"text": "0.5", "list": [1], "none": None, "tensor": True}[completion]

    with serve(daemon, talks):
        for completion, shown in (("text", "'0.5'"), ("list", r"[1]")):
            daemon.batch([completion])
            message = daemon.next("result").error.message
            assert f"reward talks returned {shown}; return a number, or None to abstain" in message
        daemon.batch(["none", "tensor"])
        values = daemon.next("result").scores[0].values
        assert math.isnan(values[0]) and values[1] == 1


def test_a_batch_reward_that_returns_nothing_is_named(daemon):
    @reward(batch=True)
    def silent(completions):
        return None

    with serve(daemon, silent):
        daemon.batch(["a"])
        assert "reward silent returned None; with batch=True it returns a list" in daemon.next("result").error.message


def test_a_missing_column_is_named(daemon):
    with serve(daemon, right):
        daemon.batch(["a"])
        assert (
            "reward right wants answer; the rows have completion, prompt, truncated"
            in daemon.next("result").error.message
        )


def test_signs_of_life_keep_the_lease_of_a_slow_batch(daemon):
    finish = threading.Event()

    @reward
    def slow(completion):
        finish.wait(10)
        return 1

    with serve(daemon, slow):
        daemon.batch(["a"], lease=0.6)
        for _ in range(2):
            assert daemon.next("progress").batch_id == "b1"
        finish.set()
        assert list(daemon.next("result").scores[0].values) == [1]


def test_a_revoked_batch_is_not_answered(daemon):
    finish = threading.Event()

    @reward
    def slow(completion):
        finish.wait(10)
        return 1

    with serve(daemon, slow, in_flight=1):
        daemon.next("credit")
        daemon.batch(["a"])
        daemon.send.put(rewards_pb2.RewardDispatch(revoke=rewards_pb2.RewardRevoke(batch_id="b1", lease_epoch=1)))
        time.sleep(0.3)
        finish.set()
        daemon.next("credit")
        daemon.batch(["b"], batch_id="b2")
        assert daemon.next("result").batch_id == "b2"


def test_it_dials_in_again_after_a_restart_of_the_daemon(daemon):
    with serve(daemon, right):
        daemon.next("hello")
        daemon.send.put(grpc.StatusCode.UNAVAILABLE)
        assert daemon.next("hello").job == "jobs/x"
        daemon.batch(["4"], answer="4")
        assert list(daemon.next("result").scores[0].values) == [1]
        assert daemon.streams == 2


def test_a_refusal_is_raised_by_wait(daemon):
    with serve(daemon, right) as server:
        daemon.send.put(grpc.StatusCode.FAILED_PRECONDITION)
        with pytest.raises(FinetunedError, match="as the test wants it"):
            server.wait(10)


def test_stop_leaves_at_once(daemon):
    server = serve(daemon, right)
    daemon.next("hello")
    started = time.time()
    server.stop()
    assert not server.running and time.time() - started < 5


def test_reward_names_must_differ_and_exist(daemon):
    with pytest.raises(InvalidArgument, match="same name"):
        serve(daemon, right, right)
    with pytest.raises(InvalidArgument, match="at least one"):
        serve(daemon)


def test_a_reward_can_still_be_called():
    assert right("4!", "4") is True and right.name == "right" and shortest.weight == 0.5
