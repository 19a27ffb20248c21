"""A disk that is full for a moment, at one change after another, and one that is read-only for a while (disk_shim.c): the
daemon goes on serving reads, a job waits or pauses with its reason, and ends with the adapter of an undisturbed run.

Usage: disk_full_test.py BUILD_DIR [--rounds 20] [--seed S] [--out FILE.json]
  --rounds N  N moments spread over the changes that one job makes; each lasts 1 to 8 changes
"""

import argparse
import collections
import errno
import json
import mmap
import pathlib
import random
import struct
import sys
import tempfile
import time

import grpc

import rig
from finetuned.v1 import jobs_pb2, state_pb2
from power_loss_test import build_shim
from storm_test import adapter_bytes

S = state_pb2


class Control:
    """struct Control of disk_shim.c."""

    def __init__(self, path):
        path.write_bytes(bytes(40))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 40)

    def changes(self):
        return struct.unpack_from("<q", self.map, 0)[0]

    def refuse(self, first, count, error):
        struct.pack_into("<q", self.map, 24, error)
        struct.pack_into("<qq", self.map, 8, first, first + count)

    def slow(self, seconds):
        """Each sync takes so much longer."""
        struct.pack_into("<q", self.map, 32, int(seconds * 1e6))

    def allow(self):
        struct.pack_into("<qq", self.map, 8, 0, 0)


def start_daemon(build_dir, folder, worker_lines):
    """With the real worker, both on a disk that obeys `folder`/control."""
    daemon = rig.Daemon(build_dir, worker="real", worker_lines=worker_lines)
    daemon.env |= {"LD_PRELOAD": build_shim(folder), "FT_DISK_ROOT": str(daemon.dir / "state"),
                   "FT_DISK_CONTROL": str(folder / "control")}
    (daemon.dir / "state").mkdir()
    return daemon.start()


def to_the_end(client, name, control, seen):
    """Resumes what pauses for the disk's sake; reads have to work at all times."""
    def ended():
        job = client.once("Jobs", "GetJob", jobs_pb2.GetJobRequest(name=name), timeout=rig.PATIENCE)
        client.once("Jobs", "ListJobs", jobs_pb2.ListJobsRequest(page_size=5), timeout=rig.PATIENCE)
        if job.state == S.PAUSED:
            assert job.state_reason == S.DISK_FULL, job
            seen["paused"] += 1
            control.allow()
            client.mutate("ResumeJob", name=name)
        return job if job.state in rig.TERMINAL else None
    job = rig.eventually(f"the end of {name}", ended)
    assert job.state == S.SUCCEEDED, f"{name}: {job.state_message}"
    if job.attempt > 1:
        seen["more than one attempt"] += 1
    rig.check_log(job, client.events(name))
    return adapter_bytes(client, name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ft-full-"))
    control = Control(folder / "control")
    started = time.time()
    daemon = start_daemon(args.build_dir, folder, "  max_crashes: 20\n")
    client = rig.Client(daemon)
    client.also_retried = {grpc.StatusCode.RESOURCE_EXHAUSTED}
    client.upload("rows", rig.ROWS)
    client.wait(client.create("warm").name, S.SUCCEEDED)
    before = control.changes()
    calm = to_the_end(client, client.create("calm").name, control, collections.Counter())
    changes = control.changes() - before
    seen = collections.Counter()
    for i in range(args.rounds):
        control.refuse(control.changes() + i * changes // args.rounds, rng.randint(1, 8), errno.ENOSPC)
        assert to_the_end(client, client.create(f"full-{i}").name, control, seen) == calm, f"round {i}: another adapter"
        control.allow()
    # Read-only for a second, begun at a random change.
    name = client.create("frozen").name
    control.refuse(control.changes() + rng.randint(0, changes), 1 << 40, errno.EROFS)
    for _ in range(10):
        client.once("Jobs", "GetJob", jobs_pb2.GetJobRequest(name=name), timeout=rig.PATIENCE)
        client.once("Jobs", "ListJobs", jobs_pb2.ListJobsRequest(), timeout=rig.PATIENCE)
        time.sleep(0.1)
    control.allow()
    assert to_the_end(client, name, control, seen) == calm, "read-only: another adapter"
    rig.check_answers(client)
    assert daemon.starts == 1, "the daemon did not live through it"
    rig.drain(daemon)
    result = {"changes_of_a_job": changes, "rounds": args.rounds, "seen": dict(seen), "seed": args.seed,
              "seconds": round(time.time() - started, 1)}
    print(json.dumps(result))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
