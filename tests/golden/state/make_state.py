"""Writes a small state directory as the present build makes it: tests/golden/state/v<schema version>. Run it once when
the schema gets a new version, before it is released; store_test opens every version that is here.

Usage: PYTHONPATH=clients/python/src make_state.py BUILD_DIR
"""

import pathlib
import shutil
import sqlite3
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "integration/crash"))
import rig
from finetuned.v1 import state_pb2 as S


def main():
    daemon = rig.Daemon(sys.argv[1]).start()
    client = rig.Client(daemon)
    client.upload("rows", rig.ROWS)
    client.wait(client.create("finish-1").name, S.SUCCEEDED)
    client.wait(client.create("refuse-1").name, S.FAILED)
    slow = client.create("slow-1").name
    rig.eventually("a checkpoint", lambda: client.get(slow).progress.step > 4)
    client.mutate("PauseJob", name=slow)
    client.wait(slow, S.PAUSED)
    client.create("finish-2", hold=True, priority=3, after=[slow])
    rig.drain(daemon)
    source = daemon.dir / "state"
    db = sqlite3.connect(source / "finetuned.db")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    # Nothing of this machine; few of the many steps.
    db.execute("UPDATE adapters SET directory = '/state/adapters/' || substr(directory, -36)")
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("VACUUM")
    db.execute("PRAGMA journal_mode=DELETE")
    db.close()
    target = HERE / f"v{version}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copy(source / "finetuned.db", target / "finetuned.db")
    for folder in ("datasets", "adapters"):
        shutil.copytree(source / folder, target / folder)
    print(f"{target.name}: {sum(f.stat().st_size for f in target.rglob('*') if f.is_file())} bytes")


if __name__ == "__main__":
    sys.exit(main())
