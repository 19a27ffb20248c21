"""Kills the daemon or its (pretended) worker at every named place of the program, once each, while a client goes through
one of everything; each time nothing may be lost or doubled (rig.py, scenario.py).

Usage: failpoint_test.py BUILD_DIR [--points N] [--seed S] [--jobs N] [--out FILE.json]
  --points N  N places chosen by the seed, and again their last passing; default: all of them
Places that the engine passes are in tests/unit/engine/train/crash_test.cc.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import random
import sys
import time

import rig
import scenario


def go(build_dir, env):
    """Returns the daemon and the time; the daemon has ended well."""
    started = time.time()
    daemon = rig.Daemon(build_dir, env=env, worker_lines="  max_crashes: 10\n  leave_grace: 20s\n")
    try:
        daemon.start()
        client, watchers = rig.Client(daemon), []
        deleted = scenario.run(client, lambda name: watchers.append(rig.Watcher(daemon, name)))
        scenario.check(daemon, client, watchers, deleted)
        rig.drain(daemon, may_be_killed=True)
        return daemon, time.time() - started
    finally:
        daemon.clean()


def census(build_dir):
    """Name of each place that is passed -> how often."""
    log = pathlib.Path(f"/tmp/ft-census-{time.time_ns()}")
    try:
        go(build_dir, {"FINETUNED_FAILPOINT_LOG": str(log)})
        return collections.Counter(log.read_text().split())
    finally:
        log.unlink(missing_ok=True)


def kill_at(build_dir, name, count):
    """"": all is well; "not passed"; else what is wrong."""
    once = pathlib.Path(f"/tmp/ft-once-{time.time_ns()}-{random.random()}")
    try:
        daemon, _ = go(build_dir, {"FINETUNED_FAILPOINT": f"{name}:{count}:{once}"})
        return "" if once.exists() else "not passed"
    except Exception as error:  # whatever goes wrong is this place's result
        return f"{type(error).__name__}: {error}"
    finally:
        once.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--points", type=int)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()
    passed = census(args.build_dir)
    print(f"{len(passed)} places are passed, {sum(passed.values())} times in all; seed {args.seed}")
    assert len(passed) >= 80, sorted(passed)
    rng = random.Random(args.seed)
    plan = [(name, rng.randint(1, count)) for name, count in sorted(passed.items())]
    if args.points:
        plan = rng.sample(plan, min(args.points, len(plan)))
    results = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(kill_at, args.build_dir, name, count): (name, count) for name, count in plan}
        for future in concurrent.futures.as_completed(futures):
            name, count = futures[future]
            results[f"{name}:{count}"] = future.result()
            if future.result():
                print(f"{name}:{count}: {future.result()}", flush=True)
    wrong = {place: said for place, said in results.items() if said and said != "not passed"}
    missed = sorted(place for place, said in results.items() if said == "not passed")
    # How often a place is passed depends on time; a run may not come to a late count.
    print(f"{len(results) - len(wrong) - len(missed)} kills survived, {len(wrong)} failed, {len(missed)} not reached")
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps({"seed": args.seed, "places": len(passed), "results": results}, indent=1))
    return 1 if wrong or len(missed) > len(results) / 4 else 0


if __name__ == "__main__":
    sys.exit(main())
