"""Writes the table of docs/scaling.md: make_scaling.py BUILD_DIR

Bytes and step times are those of `finetune plan --shape NAME --vram 24GB`; the efficiency is arithmetic. Nothing is run.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/integration"))
import harness  # noqa: E402

PAGE = ROOT / "docs/scaling.md"
MARKS = "<!-- table: docs/make_scaling.py -->\n", "<!-- end -->"
SHAPES = [("llama-3.2-1b", 4, 2048), ("llama-3.1-8b", 2, 2048), ("qwen2.5-14b", 1, 2048), ("qwen2.5-32b", 1, 512)]
# Bytes per second that one process sends while all send.
LINKS = {"10 GbE": 1.1e9, "PCIe 4.0 x16 by way of host memory": 10e9, "NVLink of an H100": 300e9}
PROCESSES, ACCUMULATION = 2, 4


def row(daemon, shape, batch, length, rank):
    said = daemon.cli("plan", "--shape", shape, "--vram", "24GB", "--micro-batch-size", batch, "--max-seq-length", length,
                      "--rank", rank, "-o", "json", check=False)
    plan = json.loads(said.stdout)
    gradients = int(plan["memory"]["gradientBytes"] if "gradientBytes" in plan["memory"] else plan["memory"]["gradient_bytes"])
    speed = float(plan.get("estimated_tokens_per_second") or plan.get("estimatedTokensPerSecond"))
    seconds = ACCUMULATION * batch * length / speed  # of a step of one process
    sent = 2 * (PROCESSES - 1) / PROCESSES * gradients
    cells = [shape, f"{batch}x{length}", rank, f"{gradients / 1e6:.0f} MB", f"{sent / 1e6:.0f} MB", f"{seconds:.1f} s"]
    cells += [f"{100 * seconds / (seconds + sent / rate):.1f} %" for rate in LINKS.values()]
    return "| " + " | ".join(map(str, cells)) + " |"


def main():
    daemon = harness.Daemon(sys.argv[1]).start()
    head = ["shape", "micro-batch", "rank", "gradients", "sent by each", f"step of {ACCUMULATION} micro-batches", *LINKS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [row(daemon, *shape, rank) for shape in SHAPES for rank in (16, 64)]
    text = PAGE.read_text()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    PAGE.write_text(text[:begin] + "\n".join(lines) + "\n" + text[end:])


if __name__ == "__main__":
    main()
