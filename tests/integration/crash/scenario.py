"""One of everything: each mutation of the API, each way a job ends. Deterministic but for time; every call is repeated
until it is answered, so it goes through whatever happens to the daemon meanwhile."""

import grpc
from google.protobuf import field_mask_pb2

import rig
from finetuned.v1 import adapters_pb2, datasets_pb2, jobs_pb2, state_pb2

S = state_pb2


def insist(client, name, states, method, **fields):
    """A command that is possible in `states` only: again when the job has moved on, until it is accepted."""
    def attempt():
        client.wait(name, *states)
        try:
            return client.mutate(method, name=name, **fields)
        except rig.Refused as error:
            assert error.code == grpc.StatusCode.FAILED_PRECONDITION, error
            return None
    return rig.eventually(f"{method} of {name}", attempt)


def update(client, name, paths, **fields):
    job = jobs_pb2.Job(name=name)
    for field, value in fields.items():
        if field in ("labels",):
            job.labels.update(value)
        else:
            setattr(job.scheduling, field, value)
    client.mutate("UpdateJob", job=job, update_mask=field_mask_pb2.FieldMask(paths=paths))


def run(client, watch):
    """Drives the jobs to their ends; `watch(name)` is told each new job. Returns the names of those deleted."""
    def create(job_id, **scheduling):
        name = client.create(job_id, **scheduling).name
        watch(name)
        return name

    client.upload("rows", rig.ROWS)
    client.upload("other", b'{"text": "spare"}\n' * 30)
    # Preempted by one of a higher priority, paused, changed, resumed, stopped early.
    slow = create("slow-1", preemptible=True)
    client.wait(slow, S.RUNNING)
    urgent = create("finish-1", priority=5)
    client.wait(urgent, S.SUCCEEDED)
    insist(client, slow, [S.RUNNING], "CheckpointJob")
    insist(client, slow, [S.RUNNING, S.QUEUED], "PauseJob")
    client.wait(slow, S.PAUSED)
    update(client, slow, ["labels"], labels={"call": client.get(slow).labels["call"], "colour": "blue"})
    insist(client, slow, [S.PAUSED], "ResumeJob")
    insist(client, slow, [S.RUNNING], "StopJob")
    # On hold, and another one behind it.
    held = create("finish-2", hold=True)
    behind = create("finish-3", after=[held])
    update(client, held, ["scheduling.hold"], hold=False)
    # Cancelled, tried again, cancelled again.
    doomed = create("slow-2")
    insist(client, doomed, [S.RUNNING], "CancelJob")
    client.wait(doomed, S.CANCELLED)
    insist(client, doomed, [S.CANCELLED], "RetryJob")
    insist(client, doomed, [S.QUEUED, S.PREPARING, S.RUNNING], "CancelJob")
    # The worker's crash, bad data.
    crash = create("crashonce-1")
    refused = create("refuse-1")
    for name, state in ((slow, S.SUCCEEDED), (held, S.SUCCEEDED), (behind, S.SUCCEEDED), (doomed, S.CANCELLED),
                        (crash, S.SUCCEEDED), (refused, S.FAILED)):
        client.wait(name, *rig.TERMINAL)
        assert client.get(name).state == state, client.get(name)
    assert client.get(slow).labels["colour"] == "blue"
    assert client.get(crash).attempt >= 2
    client.mutate("DeleteJob", name=urgent, force=True)
    client.call("Adapters", "DeleteAdapter", adapters_pb2.DeleteAdapterRequest(name="adapters/finish-2", request_id="d-1"))
    client.call("Datasets", "DeleteDataset", datasets_pb2.DeleteDatasetRequest(name="datasets/other", request_id="d-2"))
    return {urgent}


def check(daemon, client, watchers, deleted):
    # The adapter of finish-2 is gone on purpose.
    jobs = [job for job in client.all_jobs()]
    names = {job.name for job in jobs}
    assert names == {f"jobs/{n}" for n in ("slow-1", "slow-2", "finish-2", "finish-3", "crashonce-1", "refuse-1")}, names
    for job in jobs:
        rig.check_log(job, client.events(job.name))
        if job.state == S.SUCCEEDED and job.name != "jobs/finish-2":
            rig.check_adapter(daemon, client, job)
    for name, request in (("adapters/finish-2", ("Adapters", "GetAdapter", adapters_pb2.GetAdapterRequest)),
                          ("datasets/other", ("Datasets", "GetDataset", datasets_pb2.GetDatasetRequest))):
        try:
            client.call(request[0], request[1], request[2](name=name))
            raise AssertionError(f"{name} was deleted and is there")
        except rig.Refused as error:
            assert error.code == grpc.StatusCode.NOT_FOUND, error
    rig.check_answers(client)
    for watcher in watchers:
        gone = watcher.name in deleted
        # A retried job has more events after the end of its first life, where the watch ended.
        stored = [e.sequence for e in client.events(watcher.name)] if not gone else None
        watcher.check(stored if watcher.name != "jobs/slow-2" else None)
