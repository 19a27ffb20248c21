"""llama.cpp's logits of exported GGUF files of every family against transformers' of base and adapter: tiny random models, f32.

The models are those of tests/golden/parity/families, with a tokenizer of their size; those whose parts llama.cpp does not have
(a pattern of windows, norms of q and k in a small Command R) are made again with llama.cpp's. Results are in docs/export.md.
Run by hand, in an empty folder: llama_cpp_families.py EXPORT_FILES LLAMA_LOGITS [family ...]
"""

import pathlib
import subprocess
import sys

import numpy as np
import torch
from peft import PeftModel

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/unit/engine/export"), str(ROOT / "tests/golden/parity")]
import export_families  # noqa: E402
import make_family_goldens  # noqa: E402

TEXTS = ["Hello.", "abc12345", "zebra!"]  # single bytes, fewer than the models' windows

# llama.cpp takes the long factors when its context, at least 256 tokens, is longer than the original one.
LONG = make_family_goldens.FAMILIES["phi3_long"][1]["rope_parameters"]
CHANGES = {"phi3_long": dict(max_position_embeddings=8192, original_max_position_embeddings=2048,
                             rope_parameters=dict(LONG, original_max_position_embeddings=2048))}


def llama_logits(llama, out, file, lora="-"):
    done = subprocess.run([llama, file, lora, out / "texts", out / "logits"], capture_output=True, text=True, check=True)
    ids = [[int(x) for x in line.split()[1:]] for line in done.stdout.splitlines() if line.startswith("tokens")]
    return ids, np.fromfile(out / "logits", np.float32).reshape(sum(map(len, ids)), -1)


def main():
    tool, llama, *only = sys.argv[1:]
    for name in only or export_families.NAMES:
        out = pathlib.Path(name)
        out.mkdir()
        base, adapter = export_families.prepare(name, out, CHANGES.get(name))
        (out / "texts").write_text("\n".join(TEXTS) + "\n")
        for folder, args in [("merged", (adapter, "gguf", "f32")), ("base_gguf", ("", "gguf", "f32")), ("lora", (adapter, "gguf_lora", ""))]:
            subprocess.run([tool, base, *args, out / folder], check=True)
        ids, merged = llama_logits(llama, out, out / "merged/model-f32.gguf")
        _, beside = llama_logits(llama, out, out / "base_gguf/model-f32.gguf", out / "lora/adapter.gguf")
        model = PeftModel.from_pretrained(export_families.load(base), adapter).eval()
        with torch.no_grad():
            wanted = np.concatenate([model(torch.tensor([x])).logits[0].float().numpy() for x in ids])
        differences = [f"{np.abs(found - wanted).max():.2g}" for found in (merged, beside)]
        print(f"{name:10} tokens {len(merged):3}  largest logit {np.abs(wanted).max():7.3f}  largest difference merged "
              f"{differences[0]}, LoRA on the base {differences[1]}", flush=True)


if __name__ == "__main__":
    main()
