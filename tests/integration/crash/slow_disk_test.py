"""A disk whose syncs take long, and one that hangs longer than a worker may be silent (disk_shim.c): calls that change
something wait for it, reads and watchers do not, no worker is taken for dead, nothing accepted is lost, and the job ends
with the adapter of an undisturbed run.

Usage: slow_disk_test.py BUILD_DIR [--sync 0.3] [--hang 6] [--out FILE.json]
  --sync SECONDS  what each sync of the daemon and of the worker takes more
  --hang SECONDS  one sync that takes so long; the worker may be silent for 3 s
"""

import argparse
import json
import pathlib
import signal
import sys
import tempfile
import threading
import time

import rig
from disk_full_test import Control, start_daemon
from finetuned.v1 import jobs_pb2, state_pb2
from storm_test import adapter_bytes

S = state_pb2


def reads_until(done, client, name):
    """Seconds that each GetJob and ListJobs took until `done`."""
    took = []
    while not done():
        start = time.perf_counter()
        client.get(name)
        client.call("Jobs", "ListJobs", jobs_pb2.ListJobsRequest(page_size=5))
        took.append((time.perf_counter() - start) / 2)
        time.sleep(0.02)
    return sorted(took)


def hang(daemon, control, client, seconds):
    """The disk hangs under a call while a job runs; the worker's signs of life wait in the daemon meanwhile."""
    name = client.create("hung").name
    client.wait(name, S.RUNNING)
    control.slow(seconds)
    threads = [threading.Thread(target=rig.Client(daemon).create, args=(f"waits-{i}",), kwargs={"hold": True})
               for i in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    control.slow(0)  # for syncs to come: those under way hang on
    for thread in threads:
        thread.join()
    job = client.wait(name, *rig.TERMINAL)
    assert job.state == S.SUCCEEDED and job.attempt == 1, f"the worker was taken for dead: {job.attempts}"
    return name


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--sync", type=float, default=0.3)
    parser.add_argument("--hang", type=float, default=6)
    parser.add_argument("--out")
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ft-slow-"))
    control = Control(folder / "control")
    daemon = start_daemon(args.build_dir, folder, "  heartbeat_timeout: 3s\n")
    client = rig.Client(daemon)
    client.upload("rows", rig.ROWS)
    client.wait(client.create("calm").name, S.SUCCEEDED)
    calm = adapter_bytes(client, "jobs/calm")

    control.slow(args.sync)
    start = time.perf_counter()
    name = client.create("slow").name
    create_seconds = time.perf_counter() - start
    assert create_seconds >= args.sync, "answered before it was on the disk"
    watcher = rig.Watcher(daemon, name)
    took = reads_until(lambda: client.get(name).state in rig.TERMINAL, rig.Client(daemon), name)
    job = client.get(name)
    assert job.state == S.SUCCEEDED and job.attempt == 1, f"{job.state_message}, {job.attempt} attempts"
    assert adapter_bytes(client, name) == calm, "another adapter"
    assert took[len(took) // 2] < args.sync / 2, f"reads waited for the disk: {took[len(took) // 2]} s"
    watcher.check([e.sequence for e in client.events(name)])

    # Killed while a sync is under way: what was answered is there.
    client.create("held-0", hold=True)
    killed = threading.Timer(args.sync / 2, daemon.signal, [signal.SIGKILL])
    killed.start()
    client.create("held-1", hold=True)
    killed.join()
    assert rig.eventually("the next daemon", lambda: daemon.starts == 2)

    control.slow(0)
    hung = hang(daemon, control, client, args.hang)
    assert adapter_bytes(client, hung) == calm, "another adapter after the disk hung"
    rig.check_everything(daemon, client, rig.accepted_jobs([client]))
    rig.check_answers(client)
    rig.drain(daemon)
    result = {"sync_seconds": args.sync, "create_seconds": round(create_seconds, 2), "reads": len(took),
              "read_p50_ms": round(1000 * took[len(took) // 2], 1), "read_max_ms": round(1000 * took[-1], 1),
              "hang_seconds": args.hang, "daemon_starts": daemon.starts}
    print(json.dumps(result))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
