"""kill -9, STOP and CONT of daemon, worker and clients at random moments while clients create, change and end jobs; then
what was accepted is compared with what is there (rig.py): nothing lost, nothing doubled.

Usage: storm_test.py BUILD_DIR [--kills 50] [--worker fake|real] [--clients 3] [--seed S] [--gap SECONDS] [--out FILE.json]
SIGINT ends the kills early; what there was is checked.
With --worker real, tiny jobs run in deterministic mode, and each adapter has to have the bytes of the undisturbed run.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import grpc
from google.protobuf import field_mask_pb2

import rig
from finetuned.v1 import adapters_pb2, jobs_pb2, state_pb2

S = state_pb2
EXPECTED = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}


class User(threading.Thread):
    """One client: its own jobs, one call after another, each repeated until it is answered."""

    def __init__(self, daemon, number, seed, stop, real, most):
        super().__init__(daemon=True)
        self.server, self.number, self.rng, self.stop_event = daemon, number, random.Random(seed), stop
        self.most = most  # jobs: what a fast machine would queue, one worker would not get done
        self.real = real
        self.client = rig.Client(daemon)
        self.jobs, self.cancelled, self.deleted, self.notes = [], set(), set(), {}
        self.watchers, self.error, self.calls = [], None, 0

    def run(self):
        try:
            while not self.stop_event.is_set():
                self.step()
        except Exception as error:
            self.error = error

    def create(self):
        kind = "" if self.real else self.rng.choice(["", "", "finish", "slow", "crashonce"])
        job_id = f"{kind}-{self.number}-{len(self.jobs)}" if kind else ""
        job = self.client.create(job_id, priority=self.rng.randint(-2, 2), preemptible=self.rng.random() < 0.5,
                                 hold=self.rng.random() < 0.1)
        self.jobs.append(job.name)
        if self.rng.random() < 0.3:
            self.watchers.append(rig.Watcher(self.server, job.name))

    def note(self, name):
        note = f"note {self.calls}"
        self.client.mutate("UpdateJob", job=jobs_pb2.Job(name=name, display_name=note),
                           update_mask=field_mask_pb2.FieldMask(paths=["display_name"]))
        self.notes[name] = note

    def step(self):
        self.calls += 1
        open_jobs = [j for j in self.jobs if j not in self.deleted]
        if not open_jobs or (self.rng.random() < 0.3 and len(self.jobs) < self.most):
            return self.create()
        name = self.rng.choice(open_jobs[-6:])
        action = self.rng.choice(["get", "note", "pause", "resume", "checkpoint", "stop", "cancel", "release", "delete",
                                  "list"])
        try:
            if action == "get":
                self.client.get(name)
            elif action == "list":
                self.client.call("Jobs", "ListJobs", jobs_pb2.ListJobsRequest(page_size=20))
            elif action == "note":
                self.note(name)
            elif action == "release":
                self.client.mutate("UpdateJob", job=jobs_pb2.Job(name=name),
                                   update_mask=field_mask_pb2.FieldMask(paths=["scheduling.hold"]))
            elif action == "delete":
                self.client.mutate("DeleteJob", name=name, force=True)
                self.deleted.add(name)
            elif action == "cancel":
                if self.real or self.rng.random() < 0.5:
                    return
                self.client.mutate("CancelJob", name=name)
                self.cancelled.add(name)
            elif action != "stop" or not self.real:
                self.client.mutate(action.capitalize() + "Job", name=name)
        except rig.Refused as error:
            assert error.code in EXPECTED, f"{action} of {name}: {error}"


def nudge(client, job):
    """What an open job needs to come to its end."""
    try:
        if job.scheduling.hold:
            client.mutate("UpdateJob", job=jobs_pb2.Job(name=job.name),
                          update_mask=field_mask_pb2.FieldMask(paths=["scheduling.hold"]))
        elif job.state == S.PAUSED:
            client.mutate("ResumeJob", name=job.name)
        elif job.state == S.RUNNING and job.name.startswith("jobs/slow"):
            client.mutate("StopJob", name=job.name)
    except rig.Refused as error:
        assert error.code in EXPECTED, error


def finish(client):
    """Lets every job come to its end. How long that takes depends on their number: the patience is for the next one."""
    ended, since = -1, time.time()
    while True:
        jobs = client.all_jobs()
        open_jobs = [job for job in jobs if job.state not in rig.TERMINAL]
        if not open_jobs:
            return
        if len(jobs) - len(open_jobs) > ended:
            ended, since = len(jobs) - len(open_jobs), time.time()
        assert time.time() - since < rig.PATIENCE, \
            f"no job ends any more; open: {[(j.name, S.JobState.Name(j.state), j.state_message) for j in open_jobs[:5]]}"
        for job in open_jobs:
            nudge(client, job)
        time.sleep(0.1)


class Killer:
    """Disturbs: which process, how, and when come from the seed."""

    def __init__(self, daemon, seed, real):
        self.daemon, self.rng, self.counts = daemon, random.Random(seed), collections.Counter()
        self.real, self.number = real, 0
        self.answered = 0  # mutations, when it struck last

    def strike(self):
        what = self.rng.choices(["daemon", "worker", "client", "daemon stopped", "worker stopped", "both"],
                                [8, 6, 3, 2, 2, 2])[0]
        workers = self.daemon.worker_pids()
        if what in ("worker", "worker stopped", "both") and not workers:
            what = "daemon"
        self.counts[what] += 1
        if what in ("worker", "both"):
            self.send(workers, signal.SIGKILL)
        if what in ("daemon", "both"):
            self.daemon.signal(signal.SIGKILL)
        if what == "client":
            self.kill_client()
        if what in ("daemon stopped", "worker stopped"):
            pids = [self.daemon.process.pid] if what == "daemon stopped" else workers
            self.send(pids, signal.SIGSTOP)
            time.sleep(self.rng.uniform(0, 0.5))
            # Some die without ever going on.
            self.send(pids, self.rng.choice([signal.SIGCONT, signal.SIGCONT, signal.SIGKILL]))

    @staticmethod
    def send(pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill_client(self):
        """A command line client that dies while it submits or watches; what it submitted is there once or not at all."""
        self.number += 1
        command = ["run", "sft", "--detach", "--name", f"finish-cli-{self.number}", "--model", "tiny", "--data", "datasets/rows",
                   "--max-steps", 12, "--max-seq-length", 64, "--micro-batch-size", 2, "--rank", 4, "--base-quantization",
                   "none", "--checkpoint-every", 2, "--deterministic"]
        process = subprocess.Popen(self.daemon.cli_args(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.rng.uniform(0, 0.1))
        process.kill()
        process.wait()


def answered(users):
    return sum(len(user.client.ledger) for user in users)


def undisturbed_adapter(daemon, client):
    """Bytes of the adapter of a run that nobody disturbed."""
    name = client.create("calm").name
    client.wait(name, S.SUCCEEDED)
    return adapter_bytes(client, name)


def adapter_bytes(client, name):
    job = client.get(name)
    adapter = client.call("Adapters", "GetAdapter", adapters_pb2.GetAdapterRequest(name=job.output_adapter))
    return (pathlib.Path(adapter.local_path) / "adapter_model.safetensors").read_bytes()


def check(daemon, users, calm):
    client = users[0].client
    deleted = set().union(*(u.deleted for u in users))
    accepted = rig.accepted_jobs([u.client for u in users])
    jobs = {job.name: job for job in rig.check_everything(daemon, client, accepted, deleted)}
    for user in users:
        for name in user.cancelled - deleted:
            assert jobs[name].state == S.CANCELLED, f"{name} was cancelled and is {jobs[name].state}"
        for name, note in user.notes.items():
            assert name in deleted or jobs[name].display_name == note, f"{name}: {jobs[name].display_name} is not {note}"
        for watcher in user.watchers:
            gone = watcher.name in deleted
            watcher.check(None if gone else [e.sequence for e in client.events(watcher.name)])
        rig.check_answers(user.client)
    for name, job in jobs.items():
        assert job.state in rig.TERMINAL, f"{name} is {job.state}"
        assert job.state != S.FAILED, f"{name}: {job.state_message}"
        if calm is not None and job.state == S.SUCCEEDED:
            assert adapter_bytes(client, name) == calm, f"{name} has another adapter than an undisturbed run"
    return jobs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--worker", choices=["fake", "real"], default="fake")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--gap", type=float, default=0.2, help="mean seconds between two kills")
    parser.add_argument("--out")
    args = parser.parse_args()
    real = args.worker == "real"
    daemon = rig.Daemon(args.build_dir, worker=args.worker,
                        worker_lines="  max_crashes: 100\n  heartbeat_timeout: 20s\n  leave_grace: 20s\n").start()
    started = time.time()
    client = rig.Client(daemon)
    client.upload("rows", rig.ROWS)
    calm = undisturbed_adapter(daemon, client) if real else None
    stop = threading.Event()
    users = [User(daemon, i, args.seed * 100 + i, stop, real, min(400, max(12, args.kills // 3))) for i in range(args.clients)]
    users[0].client.ledger += client.ledger
    for user in users:
        user.start()
    killer = Killer(daemon, args.seed, real)
    enough = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: enough.set())
    for number in range(1, args.kills + 1):
        if enough.wait(killer.rng.expovariate(1 / args.gap)):
            break
        if number % 4:  # three in four come when something was answered since the last, or a busy machine would see none
            rig.eventually("an answer", lambda: answered(users) > killer.answered or any(u.error for u in users), 600)
        killer.answered = answered(users)
        killer.strike()
        assert all(u.error is None for u in users), [u.error for u in users]
        if number % 100 == 0:
            print(f"{number} disturbances after {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    stop.set()
    for user in users:
        user.join(rig.PATIENCE)
        assert user.error is None and not user.is_alive(), user.error
    finish(users[0].client)
    jobs = check(daemon, users, calm)
    rig.drain(daemon)
    result = {"kills": sum(killer.counts.values()), "by_target": dict(killer.counts), "seed": args.seed, "worker": args.worker,
              "daemon_starts": daemon.starts, "calls": sum(u.calls for u in users), "jobs": len(jobs),
              "deleted": sum(len(u.deleted) for u in users), "events": 0, "seconds": round(time.time() - started, 1),
              "states": dict(collections.Counter(S.JobState.Name(j.state) for j in jobs.values())),
              "attempts": sum(j.attempt for j in jobs.values()),
              "watchers": sum(len(u.watchers) for u in users),
              "adapters_equal": sum(j.state == S.SUCCEEDED for j in jobs.values()) if calm else None,
              "lost": 0, "doubled": 0}
    result["events"] = sum(w.sequences[-1] for u in users for w in u.watchers if w.sequences)
    print(json.dumps(result))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
