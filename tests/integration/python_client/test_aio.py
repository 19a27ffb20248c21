import asyncio
import inspect

import finetuned
import pytest
from conftest import LONG, QUICK, ROWS
from finetuned import aio


def with_client(server, body):
    async def run():
        async with await aio.connect(server) as client:
            return await asyncio.wait_for(body(client), 120)

    return asyncio.run(run())


def test_the_twin_has_every_method_with_the_same_parameters():
    for ours, theirs in ((finetuned.Client, aio.Client), (finetuned.Job, aio.Job)):
        for name, method in inspect.getmembers(ours, inspect.isfunction):
            if not name.startswith("_") and name != "panel":  # a panel has a thread: the blocking client's
                assert inspect.signature(method).parameters == inspect.signature(getattr(theirs, name)).parameters, name


def test_from_rows_to_a_folder(server, tmp_path):
    async def body(client):
        plan = await client.plan(**QUICK)
        job = await client.submit(**QUICK, name="async")
        steps = [e.step async for e in job.events(types=["metrics"]) if e.kind == "metrics"]
        await job.wait()
        table = await job.metrics("loss")
        folder = await job.download(tmp_path / "a")
        both = await aio.compare([job, await client.job("async")])
        return plan, job, steps, table, folder, both

    plan, job, steps, table, folder, both = with_client(server, body)
    assert plan.admissible and job.state == "SUCCEEDED" and steps == list(range(1, 13)) == table.index.tolist()
    assert (folder / "adapter_model.safetensors").exists() and not both.differences


def test_errors_and_uploads(server):
    async def body(client):
        dataset = await client.upload([*ROWS, {"prompt": "async", "completion": "upload"}])
        assert dataset.rows == 21
        with pytest.raises(finetuned.NotFound):
            await client.job("nobody")
        with pytest.raises(finetuned.InvalidArgument, match="did you mean"):
            await client.submit(model="tiny", datta=ROWS)

    with_client(server, body)


def test_a_job_is_watched_while_another_call_acts_on_it(server):
    async def body(client):
        job = await client.submit(LONG)
        watching = asyncio.create_task(job.watch("quiet"))
        async for _ in job.events(types=["metrics"]):
            break
        await (await client.job(job.name)).stop()
        await watching
        return job

    assert with_client(server, body).state == "SUCCEEDED"


def test_nobody_there(tmp_path):
    async def body():
        with pytest.raises(finetuned.DaemonUnreachable):
            await aio.connect(f"unix://{tmp_path}/none.sock")

    asyncio.run(body())
