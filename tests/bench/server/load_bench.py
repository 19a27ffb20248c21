"""A daemon with many jobs: latency of ListJobs, GetJob and CreateJob with 10,000 finished and 1,000 queued jobs, beside the
disk's own fsync and a processor's own delays, and what 200 watchers of a running job cost.

Usage: load_bench.py BUILD_DIR [--finished 10000] [--queued 1000] [--watchers 200] [--out FILE.json]
Needs grpcio and the stubs of clients/python (its src folder in PYTHONPATH); the worker is the tests' pretended one.
"""

import argparse
import json
import os
import pathlib
import sqlite3
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "integration/crash"))
import rig
from finetuned.v1 import events_pb2, jobs_pb2, state_pb2


def quantiles(seconds):
    ordered = sorted(seconds)
    return {f"p{q}_ms": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)], 2) for q in (50, 90, 99)}


def timed(calls, run):
    took = []
    for i in range(calls):
        start = time.perf_counter()
        run(i)
        took.append(time.perf_counter() - start)
    return quantiles(took)


def fsync_of_the_disk(folder, times=300):
    """As a commit of the store does at least: 4 KiB appended and synced."""
    fd = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    result = timed(times, lambda i: (os.write(fd, bytes(4096)), os.fdatasync(fd)))
    os.close(fd)
    return result


def spin_of_the_processor(times=500):
    """A millisecond of counting: what it takes longer belongs to other processes and to the machine's host."""
    def spin(i):
        end = time.thread_time() + 0.001
        while time.thread_time() < end:
            pass
    return timed(times, spin)


def clone_finished(state, count):
    """Copies the one finished job of the database, rows and events, under other names."""
    db = sqlite3.connect(state / "finetuned.db")
    columns = "state, method, priority, create_time, queue_order, front, crashes, last_sequence, job"
    number, *row = db.execute(f"SELECT id, {columns} FROM jobs WHERE name = 'jobs/finish-0'").fetchone()
    job = jobs_pb2.Job.FromString(row[-1])
    for i in range(1, count):
        job.name, job.uid = f"jobs/finish-{i}", f"clone-{i}"
        values = [*row[:3], row[3] + i, *row[4:-1], job.SerializeToString()]
        clone = db.execute(f"INSERT INTO jobs(uid, name, {columns}) VALUES(?,?,?,?,?,?,?,?,?,?,?)",
                           [job.uid, job.name, *values]).lastrowid
        db.execute("INSERT INTO events(job, sequence, kind, step, event) SELECT ?, sequence, kind, step, event"
                   " FROM events WHERE job = ?", [clone, number])
    db.commit()
    db.close()


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(client, name, stop):
    call = client.channel.unary_stream("/finetuned.v1.Jobs/WatchJob", request_serializer=lambda m: m.SerializeToString(),
                                       response_deserializer=lambda data: len(data))
    stream = call(events_pb2.WatchJobRequest(name=name, from_now=True))
    threading.Thread(target=lambda: (stop.wait(), stream.cancel()), daemon=True).start()
    try:
        for _ in stream:
            pass
    except Exception:
        return  # cancelled


def cost_of_watchers(daemon, client, name, watchers, seconds=6):
    """Processor time of the daemon per step: of the running job without watchers, then of another one that is watched."""
    def measure(job):
        step, cpu, began = client.get(job).progress.step, cpu_seconds(daemon.process.pid), time.time()
        time.sleep(seconds)
        steps = client.get(job).progress.step - step
        return {"steps": steps, "steps_per_second": round(steps / (time.time() - began), 1),
                "daemon_cpu_ms_per_step": round(1000 * (cpu_seconds(daemon.process.pid) - cpu) / max(1, steps), 3)}
    without = measure(name)
    client.mutate("StopJob", name=name)
    watched = client.create("slow-watched", hold=True).name
    stop, clients = threading.Event(), [rig.Client(daemon) for _ in range(8)]
    for i in range(watchers):
        threading.Thread(target=watch, args=(clients[i % 8], watched, stop), daemon=True).start()
    time.sleep(3)
    client.mutate("UpdateJob", job=jobs_pb2.Job(name=watched), update_mask={"paths": ["scheduling.hold"]})
    client.wait(watched, state_pb2.RUNNING)
    with_all = measure(watched)
    stop.set()
    client.mutate("StopJob", name=watched)
    extra = with_all["daemon_cpu_ms_per_step"] - without["daemon_cpu_ms_per_step"]
    return {"watchers": watchers, "without": without, "with": with_all, "extra_cpu_ms_per_step": round(extra, 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--finished", type=int, default=10000)
    parser.add_argument("--queued", type=int, default=1000)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--out")
    args = parser.parse_args()
    limits = "limits:\n  max_queued_jobs: 100000\n  min_free_disk_bytes: 0\n"
    daemon = rig.Daemon(args.build_dir, config_extra=limits).start()
    client = rig.Client(daemon)
    client.upload("rows", rig.ROWS)
    client.wait(client.create("finish-0").name, state_pb2.SUCCEEDED)
    rig.drain(daemon)
    clone_finished(daemon.dir / "state", args.finished)
    daemon.start()
    client = rig.Client(daemon)

    def calls(times, run):
        """With the processor time of the daemon for each."""
        cpu = cpu_seconds(daemon.process.pid)
        return timed(times, run) | {"daemon_cpu_ms": round(1000 * (cpu_seconds(daemon.process.pid) - cpu) / times, 2)}

    def listed(**fields):
        return lambda i: client.call("Jobs", "ListJobs", jobs_pb2.ListJobsRequest(**fields))

    running = client.create("slow-0").name
    client.wait(running, state_pb2.RUNNING)
    result = {"finished": args.finished, "queued": args.queued, "fsync": fsync_of_the_disk(daemon.dir),
              "spin_1ms": spin_of_the_processor()}
    watched = cost_of_watchers(daemon, client, running, args.watchers)
    # Behind a job on hold nothing starts; the last hundred are those counted: the queue is long by then.
    held = {"hold": True}
    for i in range(args.queued - 100):
        client.create("", **held)
    result["create_job"] = calls(100, lambda i: client.create("", **held))
    result["list_jobs_50"] = calls(300, listed())
    result["list_jobs_50_with_fields"] = calls(300, listed(read_mask={"paths": ["name", "state", "progress"]}))
    result["list_queued_by_filter"] = calls(50, listed(filter="state = QUEUED"))
    result["list_none_by_filter"] = calls(50, listed(filter="state = FAILED"))
    result["get_job"] = calls(300, lambda i: client.get(running))
    result["watch"] = watched
    result["create_job_p99_beyond_fsync_ms"] = round(result["create_job"]["p99_ms"] - result["fsync"]["p99_ms"], 2)
    print(json.dumps(result, indent=1))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    rig.drain(daemon)
    return 0


if __name__ == "__main__":
    sys.exit(main())
