"""Prints the JSON lines of step_bench for people: step_bench ... | show.py"""

import json
import sys

for line in sys.stdin:
    run = json.loads(line)
    profile = run.pop("profile", None)
    run.pop("workspace", None)
    print("  ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in run.items()))
    if profile:
        kernels = profile.pop("kernels")
        print("  ", {k: round(v, 3) for k, v in profile["ms_by_kind"].items()}, "busy", round(profile["busy_ms"], 2))
        for name, ms, calls in kernels:
            print(f"   {ms:9.3f} ms {calls:5d}  {name}")
