"""Exports and evaluations through the daemon: trained adapter -> GGUF, merged folder, LoRA GGUF, perplexities.
Usage: export_test.py BUILD_DIR"""

import json
import pathlib
import sys

from harness import ROOT, Daemon

TINY = ROOT / "tests/golden/parity/untied"


def rows(path, n=24):
    with open(path, "w") as out:
        for i in range(n):
            out.write(json.dumps({"text": f"Row {i} counts {i}, {i + 1}, {i + 2} and ends."}) + "\n")
    return path


def train(daemon):
    data = rows(daemon.dir / "rows.jsonl")
    daemon.cli("run", "sft", "--model", "tiny", "--data", data, "--name", "count", "--max-steps", "6", "--rank", "4",
               "--lr", "1e-2", "--base-quantization", "none", "-d")
    daemon.wait("training", lambda: daemon.job("count")["state"] in ("SUCCEEDED", "FAILED"))
    assert daemon.job("count")["state"] == "SUCCEEDED", daemon.job("count")


def metrics(daemon, adapter):
    listed = json.loads(daemon.cli("adapters", "-o", "json").stdout)["adapters"]
    return next(a for a in listed if a["name"] == f"adapters/{adapter}")["metrics"]


def check_gguf(daemon):
    to = daemon.dir / "gguf"
    to.mkdir()
    done = daemon.cli("export", "count", "--name", "as-gguf", "--quantization", "q8_0", "--modelfile", "--to", to,
                      "--data", daemon.dir / "rows.jsonl")
    assert done.stdout.splitlines()[-1] == str(to), done.stdout
    names = sorted(p.name for p in to.iterdir())
    assert names == ["Modelfile", "README.md", "export.json", "model-q8_0.gguf"], names
    written = json.loads((to / "export.json").read_text())
    measured = written["measured"]
    assert written["format"] == "gguf" and written["quantization"] == "q8_0"
    assert 0 < measured["max_logit_difference"] < 0.2, measured
    assert abs(measured["perplexity_increase"]) < 0.01, measured
    assert measured["perplexity"] == metrics(daemon, "as-gguf")["perplexity"]
    progress = daemon.job("as-gguf")["progress"]
    assert int(progress["step"]) == int(progress["total_steps"]) == 100, progress
    # An interrupted download goes on where it stopped.
    whole = (to / "model-q8_0.gguf").read_bytes()
    again = daemon.dir / "again"
    again.mkdir()
    (again / "model-q8_0.gguf.part").write_bytes(whole[:1000])
    daemon.cli("pull", "as-gguf", "--to", again)
    assert (again / "model-q8_0.gguf").read_bytes() == whole
    refused = daemon.cli("sample", "as-gguf", "hello", check=False)
    assert refused.returncode != 0 and "is an export" in refused.stderr, refused.stderr


def check_others(daemon):
    for kind, file in [("merged", "model.safetensors"), ("gguf_lora", "adapter.gguf"), ("peft", "adapter_model.safetensors")]:
        to = daemon.dir / kind
        daemon.cli("export", "adapters/count", "--format", kind, "--to", to)
        assert (to / file).exists(), list(to.iterdir())
    listed = json.loads(daemon.cli("ls", "-o", "json").stdout)["jobs"]
    assert all(j["name"].startswith("jobs/export-") for j in listed if "export" in j["spec"] and "as-gguf" not in j["name"])
    exact = json.loads((daemon.dir / "gguf_lora/export.json").read_text())
    assert exact["measured"]["max_tensor_difference"] == 0, exact


def check_refusals(daemon):
    failed = daemon.cli("export", "count", "--name", "too-coarse", "--quantization", "q4_0",
                        "--max-perplexity-increase", "0", "--data", daemon.dir / "rows.jsonl", check=False)
    job = daemon.job("too-coarse")
    if job["state"] == "FAILED":  # q4_0 may by chance be better than the original
        assert failed.returncode != 0 and "max_perplexity_increase" in job["state_message"], job
        assert "output_adapter" not in job
    wrong = daemon.cli("export", "count", "--quantization", "q3_k", check=False)
    assert wrong.returncode == 2 and "q4_k_m" in wrong.stderr, wrong.stderr


def check_new_tokens(daemon):
    """Trained, sampled, exported, and taken over by a job that starts from the adapter."""
    def run(name, *flags):
        daemon.cli("run", "sft", "--model", "tiny", "--data", daemon.dir / "rows.jsonl", "--name", name, "--max-steps", "2",
                   "--base-quantization", "none", "-d", *flags)
        daemon.wait(name, lambda: daemon.job(name)["state"] in ("SUCCEEDED", "FAILED"))
        return daemon.job(name)

    made = run("tokens", "--new-tokens", "Row,counts", "--rank", "4")
    assert made["state"] == "SUCCEEDED", made
    assert made["resolved_spec"]["lora"]["modules_to_save"] == ["embed_tokens", "lm_head"], made["resolved_spec"]
    daemon.cli("sample", "tokens", "Row 1 counts", "--raw", "--max-tokens", "2")
    for kind in ("merged", "peft"):
        to = daemon.dir / f"tokens-{kind}"
        daemon.cli("export", "tokens", "--format", kind, "--to", to, "--data", daemon.dir / "rows.jsonl")
        added = {t["content"]: t["id"] for t in json.loads((to / "tokenizer.json").read_text())["added_tokens"]}
        assert (added["Row"], added["counts"]) == (264, 265), added
    assert json.loads((daemon.dir / "tokens-merged/config.json").read_text())["vocab_size"] == 266
    assert run("onwards", "--init-adapter", "adapters/tokens")["state"] == "SUCCEEDED"
    refused = run("there-already", "--new-tokens", "<eos>")
    assert refused["state"] == "FAILED" and '"<eos>" is a token of the base already' in refused["state_message"], refused


def check_eval(daemon):
    table = daemon.cli("eval", "count", "--name", "measured", "--bases", "none,nf4", "--data",
                       daemon.dir / "rows.jsonl").stdout
    assert "PERPLEXITY" in table, table
    found = metrics(daemon, "measured")
    assert set(found) == {"tokens"} | {f"{what}/{base}/bf16{adapter}" for what in ("perplexity", "loss", "base_bytes")
                                       for base in ("none", "nf4") for adapter in ("", "/adapter")}, found
    assert found["base_bytes/nf4/bf16"] < found["base_bytes/none/bf16"]
    assert found["perplexity/none/bf16/adapter"] < 0.9 * found["perplexity/none/bf16"], found
    # A text is measured to its last token, in windows.
    text = daemon.dir / "text.txt"
    text.write_text("".join(f"Line {i} of the text.\n" for i in range(100)))
    table = daemon.cli("eval", "--model", "tiny", "--name", "text", "--bases", "none,int8", "--max-seq-length", "128",
                       "--data", text).stdout
    assert "int8" in table and "%" in table, table
    assert metrics(daemon, "text")["tokens"] == len(text.read_text()) + 1  # a byte a token, and the end


def main():
    daemon = Daemon(pathlib.Path(sys.argv[1]), models={"tiny": TINY}).start()
    train(daemon)
    check_gguf(daemon)
    check_others(daemon)
    check_refusals(daemon)
    check_eval(daemon)
    check_new_tokens(daemon)
    print("exports and evaluation: done")


if __name__ == "__main__":
    main()
