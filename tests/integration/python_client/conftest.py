"""One daemon with a tiny model for all tests of the Python client; tests that stop it start their own."""

import json
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import finetuned
import harness

BUILD_DIR = os.environ["FINETUNED_BUILD_DIR"]
TINY = harness.ROOT / "tests/golden/parity/tied"  # two layers, 64 wide
CHAT = (
    "{% for m in messages %}<s0>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
    "{% endgeneration %}{% else %}{{ m.content }}<eos>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<s0>assistant\n{% endif %}"
)
ROWS = [{"prompt": f"what is {i}?", "completion": f"{i} is a number"} for i in range(20)]
# A job of a second.
QUICK = {
    "model": "tiny",
    "data": ROWS,
    "lora": {"rank": 4},
    "quantization": {"base": "none"},
    "schedule": {"max_steps": 12, "max_seq_length": 64, "micro_batch_size": 2},
}
# One that goes on until it is told to stop.
LONG = QUICK | {"schedule": {"max_steps": 1_000_000, "max_seq_length": 64, "micro_batch_size": 2}}


FOLDER = tempfile.TemporaryDirectory(prefix="ftm-")


def chat_model():
    """The tiny model with a chat template."""
    folder = pathlib.Path(FOLDER.name) / "chat"
    if not folder.exists():
        shutil.copytree(TINY, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT}))
    return folder


def start_daemon(config_extra=""):
    return harness.Daemon(BUILD_DIR, config_extra, models={"tiny": TINY, "smollm2": chat_model()}).start()


@pytest.fixture(scope="session")
def daemon():
    running = start_daemon()
    yield running
    assert running.terminate() == 0, running.log()


@pytest.fixture(scope="session")
def server(daemon):
    return f"unix://{daemon.socket}"


@pytest.fixture(scope="session")
def ft(server):
    with finetuned.connect(server) as client:
        yield client


@pytest.fixture(scope="session")
def done(ft):
    """A job that has succeeded, with an evaluation every 4 steps."""
    fields = QUICK | {
        "eval_data": ROWS[:6],
        "evaluation": {"every_steps": 4},
        "name": "done",
        "labels": {"team": "nlp"},
    }
    return ft.submit(**fields).wait()


@pytest.fixture
def long_job(ft):
    """A running job; cancelled at the end."""
    job = ft.submit(LONG)
    for event in job.events(types=["metrics"]):
        if event.step >= 3:
            break
    yield job.refresh()
    if not job.refresh().done:
        job.cancel()
        job.wait(check=False)
