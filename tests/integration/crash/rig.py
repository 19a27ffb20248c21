"""A daemon that dies and is started again, clients that repeat their calls until they are answered, and what has to hold
in the end: nothing accepted is lost, nothing is there twice. Used by the other programs of this folder.

Needs grpcio and the stubs of clients/python (its src folder in PYTHONPATH).
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid

import grpc
from google.protobuf import empty_pb2

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness
from finetuned._crc32c import crc32c
from finetuned.v1 import adapters_pb2, daemon_pb2, datasets_pb2, events_pb2, jobs_pb2, state_pb2

TINY = harness.ROOT / "tests/golden/parity/tied"
ROWS = "".join(f'{{"prompt": "what is {i}?", "completion": " {i} is a number"}}\n' for i in range(20)).encode()
TERMINAL = {state_pb2.SUCCEEDED, state_pb2.FAILED, state_pb2.CANCELLED}
RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
PATIENCE = float(os.environ.get("FINETUNED_TEST_PATIENCE", "120"))  # seconds until something counts as stuck
ANSWERS = {"Jobs": {"ListJobs": jobs_pb2.ListJobsResponse, "ListEvents": jobs_pb2.ListEventsResponse,
                    "ListCheckpoints": jobs_pb2.ListCheckpointsResponse, "DeleteJob": empty_pb2.Empty},
           "Datasets": {"GetDataset": datasets_pb2.Dataset, "GetUploadStatus": datasets_pb2.UploadStatus,
                        "DeleteDataset": empty_pb2.Empty},
           "Adapters": {"GetAdapter": adapters_pb2.Adapter, "DeleteAdapter": empty_pb2.Empty}}


class Refused(Exception):
    """An answer that is not OK and that repeating does not change."""

    def __init__(self, error):
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code = error.code()


def eventually(what, predicate, timeout=None):
    deadline = time.time() + (timeout or PATIENCE)
    while time.time() < deadline:
        value = predicate()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"timed out waiting for {what}")


class Daemon(harness.Daemon):
    """Keeps itself running: a daemon that ends without being asked to is started again."""

    def __init__(self, build_dir, worker="fake", env=None, config_extra="", worker_lines=""):
        super().__init__(build_dir, config_extra, models={"tiny": TINY})
        binary = pathlib.Path(build_dir).resolve() / "tests/unit/server/supervisor/fake_worker"
        lines = worker_lines + (f"  binary: {binary}\n" if worker == "fake" else "  cpu_threads: 1\n")
        self.config.write_text(self.config.read_text().replace("  device: cpu\n", "  device: cpu\n" + lines))
        self.env = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive") | (env or {})
        self.starts = 0
        self.lock = threading.Lock()
        self.wanted = threading.Event()
        self.keeper = None

    def launch(self):
        log = open(self.dir / "daemon.log", "a")
        with self.lock:
            self.process = subprocess.Popen([str(self.bin / "finetuned"), "--config", str(self.config)], env=self.env,
                                            stdout=log, stderr=log, start_new_session=True)
            self.starts += 1

    def start(self):
        self.wanted.set()
        self.launch()
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()
        return self

    def _keep(self):
        while self.wanted.is_set():
            if self.process.poll() is not None and self.wanted.is_set():
                if self.process.returncode > 0:  # nobody killed it: it says why, and would say it again
                    sys.stderr.write(self.log()[-2000:])
                    os._exit(1)
                self.launch()
            time.sleep(0.01)

    def stop_keeping(self):
        self.wanted.clear()
        if self.keeper is not None:
            self.keeper.join()

    def clean(self):
        self.stop_keeping()
        super().clean()

    def signal(self, number):
        with self.lock, contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


class Client:
    """Raw calls. `call` repeats the very same request until the daemon answers; `ledger` keeps what was accepted."""

    def __init__(self, daemon):
        self.channel = grpc.insecure_channel(
            f"unix:{daemon.socket}", [("grpc.default_authority", "localhost"), ("grpc.initial_reconnect_backoff_ms", 50),
                                      ("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200),
                                      # A connection of its own: the daemon allows so many streams on each.
                                      ("grpc.use_local_subchannel_pool", 1)])
        self.ledger = []
        self.also_retried = set()

    def once(self, service, method, request, timeout=10):
        answer = ANSWERS.get(service, {}).get(method, jobs_pb2.Job)
        call = self.channel.unary_unary(f"/finetuned.v1.{service}/{method}",
                                        request_serializer=lambda m: m.SerializeToString(),
                                        response_deserializer=answer.FromString)
        return call(request, timeout=timeout, wait_for_ready=True)

    def call(self, service, method, request):
        deadline = time.time() + PATIENCE
        while True:
            try:
                response = self.once(service, method, request)
            except grpc.RpcError as error:
                if error.code() not in RETRIED | self.also_retried or time.time() > deadline:
                    raise Refused(error) from None
                time.sleep(0.01)
                continue
            if getattr(request, "request_id", ""):
                self.ledger.append((service, method, request, response))
            return response

    def mutate(self, method, **fields):
        """One mutation of a job with a request_id of its own."""
        request = getattr(jobs_pb2, f"{method}Request")(request_id=str(uuid.uuid4()), **fields)
        return self.call("Jobs", method, request)

    def create(self, job_id="", **scheduling):
        request = jobs_pb2.CreateJobRequest(job_id=job_id, request_id=str(uuid.uuid4()))
        request.job.labels["call"] = request.request_id
        spec = request.job.spec
        spec.base_model, spec.dataset, spec.quantization.base = "models/tiny", "datasets/rows", "none"
        spec.sft.SetInParent()
        spec.lora.rank = 4
        spec.schedule.max_steps, spec.schedule.max_seq_length, spec.schedule.micro_batch_size = 12, 64, 2
        spec.checkpoints.every_steps = 2
        spec.deterministic = True
        for name, value in scheduling.items():
            if isinstance(value, list):
                getattr(request.job.scheduling, name).extend(value)
            else:
                setattr(request.job.scheduling, name, value)
        return self.call("Jobs", "CreateJob", request)

    def get(self, name):
        return self.call("Jobs", "GetJob", jobs_pb2.GetJobRequest(name=name))

    def wait(self, name, *states):
        return eventually(f"{name} in {[state_pb2.JobState.Name(s) for s in states]}, it is {self.get(name).state}",
                          lambda: (job := self.get(name)).state in states and job)

    def all_jobs(self):
        jobs, request = [], jobs_pb2.ListJobsRequest(page_size=1000)
        while True:
            page = self.call("Jobs", "ListJobs", request)
            jobs += page.jobs
            if not page.next_page_token:
                return jobs
            request.page_token = page.next_page_token

    def events(self, name):
        events, request = [], jobs_pb2.ListEventsRequest(parent=name, page_size=1000)
        while True:
            page = self.call("Jobs", "ListEvents", request)
            events += page.events
            if not page.next_page_token:
                return events
            request.page_token = page.next_page_token

    def upload(self, dataset_id, data, chunk=400):
        """Goes on at what is committed until the dataset is there."""
        stream = self.channel.stream_unary("/finetuned.v1.Datasets/UploadDataset",
                                           request_serializer=lambda m: m.SerializeToString(),
                                           response_deserializer=datasets_pb2.Dataset.FromString)
        deadline = time.time() + PATIENCE
        while True:
            try:
                status = self.call("Datasets", "GetUploadStatus",
                                   datasets_pb2.GetUploadStatusRequest(dataset_id=dataset_id))
                if status.complete:
                    return
                offset = status.committed_size
            except Refused as error:
                assert error.code == grpc.StatusCode.NOT_FOUND, error
                offset = 0

            def messages(at=offset):
                while True:
                    part = data[at:at + chunk]
                    yield datasets_pb2.UploadDatasetRequest(dataset_id=dataset_id, write_offset=at, data=part,
                                                            crc32c=crc32c(part), finish=at + len(part) == len(data))
                    at += len(part)
                    if at == len(data):
                        return

            try:
                dataset = stream(messages(), timeout=10, wait_for_ready=True)
                assert dataset.sha256 == hashlib.sha256(data).hexdigest()
                return
            except grpc.RpcError as error:
                # Another stream: the end of the last one was not noticed yet. An offset: it was not read again.
                again = RETRIED | self.also_retried | {grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION}
                if error.code() not in again or time.time() > deadline:
                    raise Refused(error) from None
                time.sleep(0.01)


@dataclasses.dataclass
class Watcher:
    """Follows one job over every restart with its resume token, until the job ends or is deleted."""

    daemon: Daemon
    name: str

    def __post_init__(self):
        self.sequences, self.last, self.error = [], None, None
        self.client = Client(self.daemon)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        watch = self.client.channel.unary_stream("/finetuned.v1.Jobs/WatchJob",
                                                 request_serializer=lambda m: m.SerializeToString(),
                                                 response_deserializer=events_pb2.WatchJobResponse.FromString)
        token = b""
        while True:
            try:
                for answer in watch(events_pb2.WatchJobRequest(name=self.name, resume_token=token), timeout=PATIENCE,
                                    wait_for_ready=True):
                    if answer.event.sequence:
                        self.sequences.append(answer.event.sequence)
                        self.last = answer.event
                        token = answer.resume_token
                return
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    return
                if error.code() not in RETRIED:
                    self.error = error
                    return
                time.sleep(0.02)

    def check(self, stored):
        """`stored`: sequences of the log; None: the job was deleted."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), f"the watch of {self.name} does not end; it saw {self.sequences[-5:]}"
        assert self.error is None, f"the watch of {self.name} ended with {self.error}"
        wanted = list(range(1, len(self.sequences) + 1))
        assert self.sequences == wanted, f"{self.name}: the watcher saw {self.sequences}"
        assert stored is None or self.sequences == stored, f"{self.name}: seen {self.sequences}, stored {stored}"


def check_log(job, events):
    """The log of one job: no gap, states follow each other, steps of an attempt follow each other."""
    name = job.name
    assert [e.sequence for e in events] == list(range(1, len(events) + 1)), f"{name}: gaps or doubles in the log"
    state, step = state_pb2.VALIDATING, {}
    for event in events:
        if event.HasField("state_changed"):
            change = event.state_changed
            assert change.__getattribute__("to") != state or state == state_pb2.VALIDATING, f"{name}: {event}"
            assert getattr(change, "from") == state, f"{name}: {event} after {state_pb2.JobState.Name(state)}"
            state = change.to
        if event.HasField("metrics"):
            last = step.get(event.attempt)
            assert last is None or event.metrics.step == last + 1, f"{name}: step {event.metrics.step} after {last}"
            step[event.attempt] = event.metrics.step
    assert state == job.state, f"{name} is {job.state}, its log says {state}"
    assert [a.number for a in job.attempts] == list(range(1, job.attempt + 1)), f"{name}: {job.attempts}"


def check_adapter(daemon, client, job):
    adapter = client.call("Adapters", "GetAdapter", adapters_pb2.GetAdapterRequest(name=job.output_adapter))
    assert adapter.source_job == job.name and adapter.files, adapter
    for file in adapter.files:
        data = (pathlib.Path(adapter.local_path) / file.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256, f"{job.name}: {file.file} has other bytes"


def check_everything(daemon, client, accepted, deleted=()):
    """`accepted`: request_id of each CreateJob that was answered -> name. Every one is there, once, whole."""
    jobs = client.all_jobs()
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names), "a job is listed twice"
    by_call = {}
    for job in jobs:
        if "call" in job.labels:  # those of the command line have their name only
            by_call.setdefault(job.labels["call"], []).append(job.name)
    for call, found in by_call.items():
        assert len(found) == 1, f"one call made {found}"
    for call, name in accepted.items():
        if name not in deleted:
            assert by_call.get(call) == [name], f"{name} was accepted and is lost"
        else:
            assert call not in by_call, f"{name} was deleted and is there"
    for job in jobs:
        check_log(job, client.events(job.name))
        if job.state == state_pb2.SUCCEEDED:
            check_adapter(daemon, client, job)
    return jobs


def check_answers(client):
    """Each mutation that was answered gives the same answer again, and does nothing again."""
    for service, method, request, response in list(client.ledger):
        again = client.once(service, method, request, timeout=PATIENCE)
        for field in ("name", "uid", "etag", "create_time", "labels"):
            if hasattr(response, field):
                assert getattr(again, field) == getattr(response, field), f"{method} repeated: {again} is not {response}"


def accepted_jobs(clients):
    return {request.request_id: response.name
            for client in clients for _, method, request, response in client.ledger if method == "CreateJob"}


def drain(daemon, may_be_killed=False):
    """Ends the daemon as SIGTERM does; it has to leave by itself with 0."""
    daemon.stop_keeping()
    daemon.signal(signal.SIGTERM)
    code = daemon.process.wait(PATIENCE)
    assert code == 0 or (may_be_killed and code == -signal.SIGKILL), f"code {code}: {daemon.log()[-3000:]}"
