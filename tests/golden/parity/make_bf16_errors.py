"""What plain bfloat16 loses against float32: transformers and peft in bf16 on the CPU, for the models, adapters
and batches of make_goldens.py. Writes bf16_errors.json: largest error over largest value, for the logits, the
loss and each LoRA gradient. The GPU tests hold this engine to a small factor of it.
Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2.
Usage: .deps/venv/bin/python tests/golden/parity/make_bf16_errors.py
"""

import json
import pathlib

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent


def run(name, dtype):
    base = AutoModelForCausalLM.from_pretrained(HERE / name, dtype=dtype, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, HERE / f"{name}_adapter", is_trainable=True,
                                      autocast_adapter_dtype=False)
    model = model.to(dtype)
    golden = load_file(HERE / f"{name}.safetensors")
    ids, labels, cu = (golden[k].long() for k in ("input_ids", "labels", "cu_seqlens"))
    total, logits = 0, []
    for begin, end in zip(cu[:-1].tolist(), cu[1:].tolist()):
        out = model(ids[None, begin:end]).logits[0]
        logits.append(out.detach())
        total = total + torch.nn.functional.cross_entropy(out.float(), labels[begin:end], ignore_index=-100,
                                                          reduction="sum")
    loss = total / (labels >= 0).sum()
    loss.backward()
    grads = {n.replace(".default", ""): p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return torch.cat(logits).float(), loss.item(), grads


def error(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def main():
    out = {}
    for name in ("untied", "tied"):
        logits, loss, grads = run(name, torch.float32)
        logits16, loss16, grads16 = run(name, torch.bfloat16)
        out[name] = {"logits": error(logits16, logits), "loss": abs(loss16 - loss),
                     "grads": {k: error(grads16[k], g) for k, g in sorted(grads.items())}}
        print(name, out[name]["logits"], out[name]["loss"], max(out[name]["grads"].values()))
    (HERE / "bf16_errors.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
