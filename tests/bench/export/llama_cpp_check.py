"""llama.cpp's logits of exported files against transformers' of the merged float32 folder, with a random adapter.

Per quantization: bytes, largest difference of a logit, mean KL divergence, share of equal top tokens, perplexity. Also the
adapter alone on the exported base, and a GGUF whose metadata and tokenizer come from a Hugging Face folder. Tokens must be
equal. Results are in docs/export.md.
Run by hand, in an empty folder: llama_cpp_check.py MODEL.gguf TEXT EXPORT_FILES LLAMA_LOGITS [--lines N] [--only f32,q8_0,...]
"""

import argparse
import json
import os
import re
import subprocess
import time

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ALL = "f32,f16,bf16,q8_0,q6_k,q5_k_m,q5_1,q5_0,q4_k_m,q4_1,q4_0"


def export(args, base, adapter, kind, quantization, folder):
    start = time.time()
    subprocess.run([args.export_files, base, adapter, kind, quantization, folder], check=True)
    return time.time() - start


def llama(args, file, lora="-"):
    done = subprocess.run([args.llama_logits, file, lora, "texts", "out.bin"], capture_output=True, text=True, check=True)
    ids = [[int(x) for x in line.split()[1:]] for line in done.stdout.splitlines() if line.startswith("tokens")]
    return ids, np.fromfile("out.bin", np.float32).reshape(sum(map(len, ids)), -1)


def random_adapter(base, folder, rank=8):
    torch.manual_seed(1)
    weights = {}
    for file in sorted(f for f in os.listdir(base) if f.endswith(".safetensors")):
        with safe_open(f"{base}/{file}", "pt") as tensors:
            for name in tensors.keys():
                if not name.endswith("_proj.weight"):
                    continue
                out, inputs = tensors.get_slice(name).get_shape()
                stem = "base_model.model." + name.removesuffix(".weight")
                weights[stem + ".lora_A.weight"] = (torch.rand(rank, inputs) * 2 - 1) / inputs ** 0.5
                weights[stem + ".lora_B.weight"] = torch.randn(out, rank) * 0.02
    os.makedirs(folder, exist_ok=True)
    save_file(weights, f"{folder}/adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": "all-linear"}
    json.dump(config, open(f"{folder}/adapter_config.json", "w"))


def reference(folder, lines):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer(line)["input_ids"] for line in lines]
    with torch.no_grad():
        return ids, np.concatenate([model(torch.tensor([x])).logits[0].numpy() for x in ids])


def perplexity(ids, logits):
    total, at = 0.0, 0
    for row in ids:
        rows = torch.from_numpy(logits[at:at + len(row) - 1]).double()
        total += float(torch.nn.functional.cross_entropy(rows, torch.tensor(row[1:]), reduction="sum"))
        at += len(row)
    return float(np.exp(total / sum(len(row) - 1 for row in ids)))


def report(name, file, seconds, wanted, found):
    ids, logits = wanted
    assert found[0] == ids, f"{name}: other tokens"
    p, q = torch.log_softmax(torch.from_numpy(logits), -1), torch.log_softmax(torch.from_numpy(found[1]), -1)
    ours, theirs = perplexity(ids, logits), perplexity(ids, found[1])
    print(f"{name:8} {os.path.getsize(file) / 1e6:6.1f} MB  export {seconds:5.1f} s  largest difference "
          f"{np.abs(logits - found[1]).max():8.4g}  mean KL {float((p.exp() * (p - q)).sum(-1).mean()):9.3g}  same top token "
          f"{(logits.argmax(-1) == found[1].argmax(-1)).mean():.4f}  perplexity {theirs:.4f} ({100 * (theirs / ours - 1):+.2f} %)",
          flush=True)


def main():
    parser = argparse.ArgumentParser()
    for name in ["model", "text", "export_files", "llama_logits"]:
        parser.add_argument(name)
    parser.add_argument("--lines", type=int, default=12)
    parser.add_argument("--only", default=ALL)
    args = parser.parse_args()
    paragraphs = [p.strip() for p in re.split(r"\n", open(args.text, encoding="utf-8").read()) if len(p.strip()) > 400]
    lines = [p[:900] for p in paragraphs[::8]][:args.lines]
    open("texts", "w", encoding="utf-8").write("\n".join(lines) + "\n")
    export(args, args.model, "", "merged", "f32", "base")
    random_adapter("base", "adapter")
    export(args, args.model, "adapter", "merged", "f32", "merged")
    wanted = reference("merged", lines)
    print(len(lines), "texts,", sum(map(len, wanted[0])), f"tokens, perplexity {perplexity(*wanted):.4f}")
    for quantization in args.only.split(","):
        seconds = export(args, args.model, "adapter", "gguf", quantization, quantization)
        file = f"{quantization}/model-{quantization}.gguf"
        report(quantization, file, seconds, wanted, llama(args, file))
    seconds = export(args, args.model, "adapter", "gguf_lora", "", "lora")
    export(args, args.model, "", "gguf", "f32", "base_gguf")
    report("lora", "lora/adapter.gguf", seconds, wanted, llama(args, "base_gguf/model-f32.gguf", "lora/adapter.gguf"))
    seconds = export(args, "merged", "", "gguf", "f32", "from_folder")
    report("folder", "from_folder/model-f32.gguf", seconds, wanted, llama(args, "from_folder/model-f32.gguf"))


if __name__ == "__main__":
    main()
