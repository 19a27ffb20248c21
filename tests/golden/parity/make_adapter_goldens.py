"""Writes what adapter_kinds_test compares with: adapters of other kinds than make_goldens.py's, on its "untied" model,
and what peft 0.21.2 and torch 2.11.0 compute with them in float32 on the CPU; and logits over quantized bases as
bitsandbytes 0.50.2 stores them.
Run: python make_adapter_goldens.py [bias]

kinds/NAME/              PEFT adapters: "patterns" (rank and alpha by pattern, one layer, rsLoRA), "dora", "dora_patterns",
                         "dora_dropout", "modules" (embedding and head trained whole); "bias_all", "bias_lora_only",
                         "bias_dora" (all biases, with DoRA) on kinds/biased.
kinds/biased/            a Llama with random biases in every linear.
kinds/NAME.safetensors   logits, loss and the gradient of every tensor that trains, of one packed batch. Loss and gradients
                         of "dora_dropout" are those of a training step with the masks of kernels/dropout.h, seed 42.
kinds/bases.safetensors  logits of the base alone, its linears in "int8", "nf4", "fp4" and "fp4_plain" (no double
                         quantization).
kinds/bnb_NAME/          the base as bitsandbytes stores it: "nf4" (double quantization), "fp4" (without) and "int8".
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from make_goldens import ALL, VOCAB, documents_loss, load, random_rows, shifted, tokenizer

HERE = pathlib.Path(__file__).parent
KINDS = HERE / "kinds"
SEED = 42  # of dropout masks


def make_adapter(folder, name, **options):
    torch.manual_seed(13)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM", **options})
    model = get_peft_model(load(folder), config)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.normal_(0, 0.05)
            if "modules_to_save" in key:
                p.add_(torch.empty_like(p).normal_(0, 0.02))
            if key.endswith("bias") and p.requires_grad:
                p.add_(torch.empty_like(p).normal_(0, 0.05))
            if "magnitude" in key:
                p.mul_(torch.empty_like(p).uniform_(0.8, 1.2))
    path = KINDS / name
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    (path / "README.md").unlink()
    saved = json.loads((path / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = folder.name  # no path of this machine
    saved["target_modules"] = sorted(saved["target_modules"])  # PEFT keeps a set
    (path / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    return path


def batch_tensors(rows):
    bounds = torch.tensor([0] + [len(r["input_ids"]) for r in rows]).cumsum(0)
    return {"input_ids": torch.tensor(sum((r["input_ids"] for r in rows), []), dtype=torch.int32),
            "labels": torch.tensor(sum((shifted(r) for r in rows), []), dtype=torch.int32),
            "cu_seqlens": bounds.to(torch.int32)}


def philox(low, high, key):
    """Words of Philox4x32-10 for the counters `low`, as kernels/philox.h."""
    mask = np.uint64(0xFFFFFFFF)
    c = [low & mask, low >> np.uint64(32), np.full_like(low, high & 0xFFFFFFFF), np.full_like(low, high >> 32)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1)


class Masked(torch.nn.Module):
    """Dropout with the masks that this program draws at a site; documents come one after another."""

    def __init__(self, p, site, inputs, rows):
        super().__init__()
        words = philox(np.arange(rows * inputs // 4, dtype=np.uint64), site, SEED)
        keep = words.reshape(rows, inputs) >= round(p * 2**32)
        self.factors, self.next = torch.from_numpy(keep).float() / (1 - p), 0

    def forward(self, x):
        first, self.next = self.next, self.next + x.shape[1]
        return x * self.factors[first:self.next]


def drop(model, p, rows):
    adapted = [module for _, module in model.named_modules() if hasattr(module, "lora_dropout")]  # in the order of sites
    for site, module in enumerate(adapted):
        module.lora_dropout["default"] = Masked(p, site, module.in_features, rows)
    model.train()


def golden(folder, adapter, rows):
    model = PeftModel.from_pretrained(load(folder), adapter, is_trainable=True)
    model.eval()
    logits, loss = documents_loss(model, rows)
    p = model.peft_config["default"].lora_dropout
    if p > 0:
        drop(model, p, sum(len(r["input_ids"]) for r in rows))
        loss = documents_loss(model, rows)[1]
    loss.backward()
    tensors = {"logits": logits.detach(), "loss": loss.detach().reshape(1), **batch_tensors(rows)}
    for key, p in model.named_parameters():
        if p.grad is not None:
            tensors["grad." + key.replace(".default", "").replace(".modules_to_save", "")] = p.grad
    save_file({k: v.contiguous() for k, v in tensors.items()}, KINDS / (adapter.name + ".safetensors"))


def quantized_logits(folder, rows, values):
    model = load(folder)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if any(t + ".weight" in key for t in ALL):
                p.copy_(values(p.data))
        return documents_loss(model, rows)[0].contiguous()


def int8_values(weight):
    import bitsandbytes.functional as F

    codes, absmax, _ = F.int8_vectorwise_quant(weight.to(torch.float16))
    return codes.float() * absmax.unsqueeze(1).mul(1.0 / 127.0)


def four_bit_values(kind, double_quant):
    def values(weight):
        import bitsandbytes.functional as F

        codes, state = F.quantize_4bit(weight, quant_type=kind, blocksize=64, compress_statistics=double_quant)
        return F.dequantize_4bit(codes, state)

    return values


def stored_parts(name, weight, base):
    """The tensors of a linear as bitsandbytes.nn saves them."""
    import bitsandbytes.functional as F

    if base == "int8":
        codes, absmax, _ = F.int8_vectorwise_quant(weight.to(torch.float16))
        module = name.removesuffix(".weight")
        return {name: codes, module + ".SCB": absmax, module + ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    codes, state = F.quantize_4bit(weight.to(torch.bfloat16), quant_type=base, blocksize=64, compress_statistics=base == "nf4")
    return {name: codes, **{f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}}


def save_stored(folder, base):
    tensors = {}
    for name, p in load(folder).state_dict().items():
        linear = any(t + ".weight" in name for t in ALL)
        tensors.update(stored_parts(name, p, base) if linear else {name: p.to(torch.bfloat16)})
    path = KINDS / ("bnb_" + base)
    path.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    four_bit = base != "int8"
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": four_bit, "load_in_8bit": not four_bit}
    if four_bit:
        config["quantization_config"].update(bnb_4bit_quant_type=base, bnb_4bit_use_double_quant=base == "nf4")
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def make_biased():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(17)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128, rms_norm_eps=1e-5,
                                         bos_token_id=None, eos_token_id=256, pad_token_id=257, attention_bias=True, mlp_bias=True))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.1) if p.dim() == 2 else p.uniform_(0.5, 1.5)
        for key, p in model.named_parameters():
            if key.endswith("bias"):
                p.normal_(0, 0.1)
    shutil.rmtree(KINDS / "biased", ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(KINDS / "biased")
    tokenizer().save_pretrained(KINDS / "biased")
    return KINDS / "biased"


def make_biases():
    folder, rows = make_biased(), random_rows(2, 3, low=6, high=20)
    for adapter in (make_adapter(folder, "bias_all", bias="all", target_modules=["q_proj", "down_proj"]),
                    make_adapter(folder, "bias_lora_only", bias="lora_only", target_modules=["k_proj", "o_proj", "up_proj"]),
                    make_adapter(folder, "bias_dora", bias="all", use_dora=True)):
        golden(folder, adapter, rows)


def main():
    if sys.argv[1:] == ["bias"]:
        return make_biases()
    folder, rows = HERE / "untied", random_rows(2, 3, low=6, high=20)
    KINDS.mkdir(exist_ok=True)
    patterns = dict(rank_pattern={"q_proj": 2, r"layers\.1\.mlp\..*": 6}, alpha_pattern={"up_proj": 20, "q_proj": 3})
    for adapter in (make_adapter(folder, "patterns", layers_to_transform=[1], use_rslora=True, **patterns),
                    make_adapter(folder, "dora", use_dora=True),
                    make_adapter(folder, "dora_patterns", use_dora=True, **patterns),
                    make_adapter(folder, "dora_dropout", use_dora=True, lora_dropout=0.25,
                                 target_modules=["q_proj", "v_proj", "down_proj"]),
                    make_adapter(folder, "modules", modules_to_save=["embed_tokens", "lm_head"], layers_to_transform=[0])):
        golden(folder, adapter, rows)
    bases = {"int8": int8_values, "nf4": four_bit_values("nf4", True), "fp4": four_bit_values("fp4", True),
             "fp4_plain": four_bit_values("fp4", False)}
    tensors = {name: quantized_logits(folder, rows, values) for name, values in bases.items()}
    save_file({**tensors, **batch_tensors(rows)}, KINDS / "bases.safetensors")
    for base in ("nf4", "fp4", "int8"):
        save_stored(folder, base)
    make_biases()


if __name__ == "__main__":
    main()
