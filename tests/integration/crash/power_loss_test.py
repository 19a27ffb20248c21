"""Power loss: daemon and worker run while every change of the disk is written down (disk_shim.c); then the disk is built as
a power cut at many moments would have left it, with what was not synced dropped, kept, or kept in part, and looked at:
each call that was answered before has to be there, each row has to have its files, each checkpoint its hashes.

The rules are POSIX's, harder than ext4's: bytes are safe after fsync of their file, a name after fsync of its folder.

Usage: power_loss_test.py BUILD_DIR [--cuts 150] [--seed S] [--out FILE.json]
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

import rig
from finetuned.v1 import adapters_pb2, datasets_pb2, events_pb2, jobs_pb2, state_pb2

HERE = pathlib.Path(__file__).resolve().parent
CREATE, TRUNCATE, WRITE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, ANSWERED = range(1, 10)
HEAD = struct.Struct("<IIIIq")


def build_shim(folder):
    library = pathlib.Path(folder) / "disk_shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "disk_shim.c", "-ldl", "-lpthread"], check=True)
    return str(library)


def answered(journal, text):
    """The test's own record: a client has been told so. In one write, as the processes' records are."""
    data = text.encode()
    with open(journal, "ab", buffering=0) as out:
        out.write(HEAD.pack(ANSWERED, 0, 0, len(data), 0) + data)


def records(journal):
    data, at = pathlib.Path(journal).read_bytes(), 0
    while at < len(data):
        op, first, second, size, offset = HEAD.unpack_from(data, at)
        at += HEAD.size
        path = data[at:at + first].decode()
        other = data[at + first:at + first + second].decode()
        content = data[at + first + second:at + first + second + size]
        at += first + second + size
        yield op, path, other, offset, content


class File:
    def __init__(self):
        self.safe, self.pending = bytearray(), []   # pending: (offset, bytes) or (size, None)


class Folder:
    def __init__(self):
        self.entries, self.safe, self.pending = {}, {}, []  # pending: (name, node or None)

    def put(self, name, node):
        if node is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = node
        self.pending.append((name, node))


def apply(data, change):
    offset, content = change
    if content is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
    else:
        if len(data) < offset + len(content):
            data.extend(bytes(offset + len(content) - len(data)))
        data[offset:offset + len(content)] = content


class Disk:
    """What the programs see (entries, all pending changes) and what is safe."""

    def __init__(self, root):
        self.root, self.top = root, Folder()

    def parts(self, path):
        relative = os.path.relpath(path, self.root)
        return [] if relative == "." else relative.split("/")

    def folder(self, parts):
        node = self.top
        for part in parts:
            node = node.entries[part]
        return node

    def take(self, op, path, other, offset, content):
        *above, name = self.parts(path) or [None]
        folder = self.folder(above)
        if op in (CREATE, MKDIR):
            folder.put(name, File() if op == CREATE else Folder())
        elif op in (UNLINK, RMDIR):
            folder.put(name, None)
        elif op == RENAME:
            node = folder.entries[name]
            *above, new = self.parts(other)
            folder.put(name, None)
            self.folder(above).put(new, node)
        elif op == SYNC:
            self.sync(folder if name is None else folder.entries[name])
        else:
            folder.entries[name].pending.append((offset, None if op == TRUNCATE else content))

    @staticmethod
    def sync(node):
        if isinstance(node, Folder):
            node.safe = dict(node.entries)
        else:
            for change in node.pending:
                apply(node.safe, change)
        node.pending = []

    def after_cut(self, rng, keep, target, node=None):
        """Writes the tree below `target`. keep: 0 nothing that is not safe, 1 all, else that share of it, in order."""
        node = node or self.top
        survive = int(len(node.pending) * keep) if keep in (0, 1) else rng.randint(0, len(node.pending))
        if isinstance(node, File):
            data = bytearray(node.safe)
            for change in node.pending[:survive]:
                apply(data, change)
            if survive < len(node.pending) and keep not in (0, 1) and node.pending[survive][1]:
                offset, content = node.pending[survive]  # torn at a sector
                apply(data, (offset, content[:rng.randint(0, len(content) // 512) * 512]))
            target.write_bytes(data)
            return
        target.mkdir(exist_ok=True)
        entries = dict(node.safe)
        for name, child in node.pending[:survive]:
            if child is None:
                entries.pop(name, None)
            else:
                entries[name] = child
        for name, child in entries.items():
            self.after_cut(rng, keep, target / name, child)


def rows(db, sql, message):
    out = []
    for row in db.execute(sql):
        parsed = message()
        parsed.ParseFromString(row[0])
        out.append((parsed, *row[1:]))
    return out


def check_checkpoint(folder):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, f"{folder.name}/{name}"


def check_disk(state, original, told):
    """`told`: what clients had been answered when the power went."""
    if not (state / "finetuned.db").exists():
        assert not told, "the database is gone"
        return
    db = sqlite3.connect(state / "finetuned.db")
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
        assert not told, "the database is empty"
        return
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    jobs = rows(db, "SELECT job, id, last_sequence FROM jobs", jobs_pb2.Job)
    by_name = {job.name: job for job, *_ in jobs}
    for job, number, last in jobs:
        found = rows(db, f"SELECT event FROM events WHERE job = {number} ORDER BY sequence", events_pb2.Event)
        assert [e.sequence for e, in found] == list(range(1, last + 1)), f"{job.name}: {last}"
        rig.check_log(job, [e for e, in found])
        uid = job.uid
        # The newest; the worker may be removing older ones, a file at a time.
        for _, directory in rows(db, f"SELECT checkpoint, directory FROM checkpoints WHERE job = {number}"
                                     " ORDER BY step DESC LIMIT 1", jobs_pb2.Checkpoint):
            check_checkpoint(state / "jobs" / uid / directory)
    for adapter, directory in rows(db, "SELECT adapter, directory FROM adapters", adapters_pb2.Adapter):
        for file in adapter.files:
            data = (state / pathlib.Path(directory).relative_to(original) / file.file).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file.sha256, f"{adapter.name}: {file.file}"
    for dataset, in rows(db, "SELECT dataset FROM datasets", datasets_pb2.Dataset):
        data = (state / "datasets" / f"{dataset.sha256}.jsonl").read_bytes()
        assert hashlib.sha256(data).hexdigest() == dataset.sha256, dataset.name
    for name, wanted in told.items():
        assert name in by_name, f"{name} was accepted and is lost"
        assert by_name[name].state >= wanted, f"{name} was {wanted}, is {by_name[name].state}"
    db.close()


def record_run(build_dir, journal, shim):
    daemon = rig.Daemon(build_dir, worker="real")
    daemon.env |= {"LD_PRELOAD": shim, "FT_DISK_ROOT": str(daemon.dir / "state"), "FT_DISK_JOURNAL": str(journal)}
    (daemon.dir / "state").mkdir()
    daemon.start()
    client = rig.Client(daemon)
    client.upload("rows", rig.ROWS)
    for i in range(3):
        name = client.create(f"cut-{i}").name
        answered(journal, f"{name} {state_pb2.QUEUED}")
        if i == 1:
            client.wait(name, state_pb2.RUNNING, state_pb2.SUCCEEDED)
            for pid in daemon.worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGRTMAX)  # as SIGKILL, after the record of its last change
        client.wait(name, state_pb2.SUCCEEDED)
        answered(journal, f"{name} {state_pb2.SUCCEEDED}")
    rig.drain(daemon)
    return daemon


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--cuts", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ft-power-"))
    journal = folder / "journal"
    started = time.time()
    daemon = record_run(args.build_dir, journal, build_shim(folder))
    original = daemon.dir / "state"
    all_records = list(records(journal))
    rng = random.Random(args.seed)
    interesting = [i for i, r in enumerate(all_records) if r[0] in (ANSWERED, SYNC, RENAME)]
    cuts = sorted(set(rng.sample(interesting, min(args.cuts // 2, len(interesting))) +
                      rng.sample(range(len(all_records)), min(args.cuts // 2, len(all_records)))))
    disk, told, cut_at, looked = Disk(str(original)), {}, set(cuts), 0
    for i, (op, path, other, offset, content) in enumerate(all_records):
        if op == ANSWERED:
            name, state = content.decode().split()
            told[name] = int(state)
        else:
            disk.take(op, path, other, offset, content)
        if i not in cut_at:
            continue
        for keep in (0, 1, 0.5):
            state = folder / "state"
            disk.after_cut(rng, keep, state)
            try:
                check_disk(state, original, dict(told))
            except Exception as error:
                print(f"power cut after change {i} of {len(all_records)} ({op} {path}), kept {keep}: {error!r}")
                return 1
            looked += 1
            shutil.rmtree(state)
    result = {"changes": len(all_records), "syncs": sum(r[0] == SYNC for r in all_records), "cuts": len(cuts),
              "disks_checked": looked, "seed": args.seed, "seconds": round(time.time() - started, 1)}
    print(json.dumps(result))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
