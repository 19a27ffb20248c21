"""Writes the tables of docs/memory.md: make_memory.py BUILD_DIR

Starts a daemon and asks `finetune plan --shape NAME --vram SIZE` for every row. Nothing is loaded or run.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/integration"))
import harness  # noqa: E402

PAGE = ROOT / "docs/memory.md"

# What users of a 24 GB card ask for: name, shape, batch, sequence, rank, accumulation.
WISHES = [
    ("5-7B, safe", "llama-2-7b", 2, 1024, 32, 4),
    ("5-7B, safe", "mistral-7b", 2, 1024, 32, 4),
    ("13B, tight", "llama-2-13b", 1, 512, 16, 8),
    ("20B and more, at the limit", "internlm2-20b", 1, 256, 8, 8),
    ("20B and more, at the limit", "qwen2.5-32b", 1, 256, 8, 8),
    ("1B", "llama-3.2-1b", 4, 2048, 16, 1),
]
BEST = ["llama-3.2-1b", "llama-3.2-3b", "llama-2-7b", "llama-3.1-8b", "llama-2-13b", "qwen2.5-14b", "internlm2-20b",
        "qwen2.5-32b"]
CARDS = ["8GB", "12GB", "16GB", "24GB"]


class Planner:
    def __init__(self, build):
        self.daemon = harness.Daemon(build)
        self.daemon.start()

    def plan(self, shape, vram, **flags):
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not True]
        arguments += [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is True]
        done = self.daemon.cli("plan", "--shape", shape, "--vram", vram, "-o", "json", *arguments, check=False)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout)

    def longest(self, shape, vram, **flags):
        """The longest sequence, in steps of 256 tokens, at which the same settings fit and the model goes."""
        low, high = 0, 513
        while high - low > 1:
            middle = (low + high) // 2
            try:
                fits = self.plan(shape, vram, max_seq_length=middle * 256, **flags).get("admissible")
            except RuntimeError as error:
                if "above the model's limit" not in str(error):
                    raise
                fits = False
            low, high = (middle, high) if fits else (low, middle)
        return low * 256


def gigabytes(value):
    return f"{int(value) / 1e9:.1f} GB"


def settings(plan):
    """What was chosen, in words."""
    spec = plan["resolved_spec"]
    schedule, compute = spec["schedule"], spec["compute"]
    parts = [spec["quantization"]["base"].replace("none", "16-bit"),
             f"rank {spec['lora']['rank']}",
             f"{schedule['micro_batch_size']} x {schedule['max_seq_length']}",
             f"accumulation {schedule['gradient_accumulation_steps']}"]
    if compute["activation_checkpointing"] != "off":
        parts.append("recompute" if compute["activation_checkpointing"] == "on" else
                     f"recompute ({compute['activation_checkpointing']})")
    if standing := spec["quantization"].get("standing_layers"):
        parts.append(f"{standing} layers standing")
    if compute.get("activation_offload") == "on":
        parts.append("offload")
    return ", ".join(parts)


def row(cells):
    return "| " + " | ".join(str(c) for c in cells) + " |"


def wishes(planner):
    lines = [row(["asked for", "shape", "batch x sequence, rank, accumulation", "plan", "how", "longest that fits, or the model's limit"]),
             row(["---"] * 6)]
    for name, shape, batch, length, rank, accumulation in WISHES:
        flags = dict(micro_batch_size=batch, rank=rank, gradient_accumulation_steps=accumulation, standing_layers=0)
        plan = planner.plan(shape, "24GB", max_seq_length=length, **flags)
        assert plan["admissible"], (shape, plan["problems"])
        lines.append(row([name, shape, f"{batch} x {length}, {rank}, {accumulation}",
                          gigabytes(plan["memory"]["total_bytes"]), settings(plan),
                          f"{batch} x {planner.longest(shape, '24GB', **flags)}"]))
    return lines


def seven_billion(planner):
    lines = [row(["base", "recompute", "plan", "weights", "activations"]), row(["---"] * 5)]
    for base in ("nf4", "none"):
        plan = planner.plan("llama-2-7b", "80GB", micro_batch_size=2, max_seq_length=1024, rank=16,
                            base_quantization=base, activation_checkpointing=True, standing_layers=0)
        memory = plan["memory"]
        lines.append(row([base.replace("none", "16-bit"), "on", gigabytes(memory["total_bytes"]),
                          gigabytes(memory["weights_bytes"]), gigabytes(memory["activation_bytes"])]))
    return lines


def best(planner):
    lines = [row(["shape", *CARDS]), row(["---"] * (1 + len(CARDS)))]
    for shape in BEST:
        cells = [shape]
        for card in CARDS:
            plan = planner.plan(shape, card)
            speed = plan.get("estimated_tokens_per_second", 0)
            cells.append(f"{settings(plan)}: {gigabytes(plan['memory']['total_bytes'])}, about "
                         f"{int(round(speed, -1))} tokens/s" if plan.get("admissible") else "does not fit")
        lines.append(row(cells))
    return lines


def methods(planner):
    lines = [row(["job", "plan", "how", "estimate, tokens/s"]), row(["---"] * 4)]
    grpo = dict(method="grpo", group_size=16, max_completion_tokens=512, micro_batch_size=4,
                gradient_accumulation_steps=4, max_seq_length=1024)
    jobs = [("DPO, pairs of 2 x 1024", dict(method="dpo", max_seq_length=1024)),
            ("KTO, rows of 1024", dict(method="kto", max_seq_length=1024)),
            ("GRPO, 16 completions", grpo)]
    jobs += [(f"SFT, one row of {n}", dict(micro_batch_size=1, max_seq_length=n)) for n in (4096, 16384, 32768, 65536)]
    for name, flags in jobs:
        plan = planner.plan("llama-3.1-8b", "24GB", base_quantization="nf4", **flags)
        assert plan["admissible"], (name, plan["problems"])
        host = int(plan["memory"].get("host_bytes", 0))
        lines.append(row([name, gigabytes(plan["memory"]["total_bytes"]),
                          settings(plan) + (f" ({gigabytes(host)} of host memory)" if host else ""),
                          int(round(plan["estimated_tokens_per_second"], -1))]))
    return lines


def reasons(planner):
    plan = planner.plan("llama-3.1-8b", "24GB")
    return [row(["setting", "value", "reason"]), row(["---"] * 3)] + [
        row([f"`{c['field']}`", c["value"], c["reason"]]) for c in plan["choices"]]


def main():
    planner = Planner(sys.argv[1])
    text = PAGE.read_text()
    for name, make in {"wishes": wishes, "seven": seven_billion, "best": best, "methods": methods, "reasons": reasons}.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        before, rest = text.split(start)
        text = before + start + "\n".join(make(planner)) + "\n" + end + rest.split(end)[1]
    PAGE.write_text(text)
    planner.daemon.terminate()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
