"""Exports of a tiny model with an adapter, read by the libraries they are made for.

merged      transformers' logits equal those of peft's merge_and_unload, for every float type
gguf        the package gguf reads every tensor; blocks equal its own encoder bit for bit, or lie within the error of
            the type; metadata say what the model is; gguf -> merged -> transformers gives the same logits again
gguf_lora   B A * alpha / rank equals peft's delta; adapters with more than that are refused
Usage: export_loads.py EXPORT_FILES GOLDENS MODEL ADAPTER... Exit 77 (skipped) without the libraries. Every adapter is
merged; the first one goes through all types of GGUF. MODEL "families": see export_families.py."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import export_families
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

TEXT = "The quick brown fox, 12345 times."
# Largest error of a number in units of the block's largest one.
BOUNDS = {"Q8_0": 0.005, "Q6_K": 0.05, "Q5_1": 0.05, "Q5_0": 0.07, "Q4_1": 0.1, "Q4_0": 0.13}


def load(path, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def permute(weight, heads):
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name):
    for old, new in [("model.embed_tokens", "token_embd"), ("model.layers", "blk"), ("model.norm", "output_norm"),
                     ("lm_head", "output"), ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"),
                     ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"), ("mlp.", "ffn_"),
                     ("post_attention_layernorm", "ffn_norm"), ("input_layernorm", "attn_norm"), ("_proj", "")]:
        name = name.replace(old, new)
    return name


class Check:
    def __init__(self, tool, goldens, model, adapter):
        self.tool, self.base, self.adapter = tool, pathlib.Path(goldens, model), pathlib.Path(goldens, adapter)
        self.config = json.load(open(self.base / "config.json"))
        plain = load(self.base)
        self.ids = AutoTokenizer.from_pretrained(self.base)(TEXT)["input_ids"]
        self.plain = logits(plain, self.ids)
        self.peft = PeftModel.from_pretrained(plain, self.adapter)
        self.deltas = {n.removeprefix("base_model.model."): m.get_delta_weight("default").detach()
                       for n, m in self.peft.named_modules() if hasattr(m, "get_delta_weight")}
        self.merged = self.peft.merge_and_unload()
        self.wanted = logits(self.merged, self.ids)

    def command(self, out, kind, quantization, base=None, adapter=None):
        folder = out / f"{kind}-{quantization}-{'again' if base else 'first'}"
        return folder, [self.tool, base or self.base, self.adapter if adapter is None else adapter, kind, quantization, folder]

    def export(self, *args, **kwargs):
        folder, command = self.command(*args, **kwargs)
        subprocess.run(command, check=True)
        return folder

    def check_merged(self, out):
        for quantization, bound in [("f32", 2e-5), ("f16", 5e-3), ("bf16", 5e-2)]:
            folder = self.export(out, "merged", quantization)
            assert (folder / "model.safetensors.index.json").exists()
            found = logits(load(folder), AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"])
            worst = float((found - self.wanted).abs().max())
            print(self.adapter.name, "merged", quantization, "largest difference", worst)
            assert worst < bound and worst < float((self.plain - self.wanted).abs().max())
        self.weights = {k: v for f in (out / "merged-f32-first").glob("*.safetensors") for k, v in load_file(f).items()}

    def reference(self, name):
        weight = self.weights[name].numpy()
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        for key, field in heads.items():
            if key in name:
                weight = permute(weight, self.config[field])
        return np.ascontiguousarray(weight)

    def check_gguf(self, out, quantization):
        folder = self.export(out, "gguf", quantization)
        reader = gguf.GGUFReader(folder / f"model-{quantization}.gguf")
        tensors = {t.name: t for t in reader.tensors}
        assert len(tensors) == len(self.weights) + ("rope_freqs.weight" in tensors)
        types = set()
        for name in self.weights:
            tensor, wanted = tensors[gguf_name(name)], self.reference(name)
            kind = tensor.tensor_type
            types.add(kind.name)
            assert list(reversed(tensor.shape.tolist())) == list(wanted.shape), name
            if not kind.name.endswith("_K"):
                assert np.array_equal(np.asarray(tensor.data).view(np.uint8).ravel(),
                                      np.ascontiguousarray(gguf.quantize(wanted, kind)).view(np.uint8).ravel()), name
            if kind.name in BOUNDS:
                error = np.abs(gguf.dequantize(tensor.data, kind).ravel() - wanted.ravel()).max()
                assert error < BOUNDS[kind.name] * np.abs(wanted).max(), (name, kind.name, error)
        value = lambda key: reader.fields[key].contents()
        assert value("llama.block_count") == self.config["num_hidden_layers"]
        assert len(value("tokenizer.ggml.tokens")) == self.config["vocab_size"]
        assert value("general.type") == "model"
        assert (folder / "Modelfile").read_text().startswith("# ollama create")
        print("gguf", quantization, "types", sorted(types))
        return folder / f"model-{quantization}.gguf"

    def check_again(self, out, file):
        folder = self.export(out, "merged", "f32", base=file, adapter="")
        found = logits(load(folder), AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"])
        worst = float((found - self.wanted).abs().max())
        print("gguf f32 -> merged: largest difference", worst)
        assert worst < 2e-4  # rotary divisors are stored as float32
        copied = gguf.GGUFReader(self.export(out, "gguf", "f32", base=file, adapter="") / "model-f32.gguf")
        first = gguf.GGUFReader(file)
        for a, b in zip(first.tensors, copied.tensors, strict=True):
            assert a.name == b.name and np.array_equal(a.data, b.data), a.name
        assert set(first.fields) == set(copied.fields)

    def check_lora(self, out):
        config = json.load(open(self.adapter / "adapter_config.json"))
        if config.get("use_dora") or config.get("modules_to_save"):
            done = subprocess.run(self.command(out, "gguf_lora", "")[1], capture_output=True, text=True)
            assert done.returncode == 1 and "gguf instead" in done.stderr, done.stderr
            return
        reader = gguf.GGUFReader(self.export(out, "gguf_lora", "") / "adapter.gguf")
        alpha = reader.fields["adapter.lora.alpha"].contents()
        tensors = {t.name: np.array(t.data) for t in reader.tensors}
        assert len(tensors) == 2 * len(self.deltas)
        for name, delta in self.deltas.items():
            stem = gguf_name(name + ".weight")
            a, b = tensors[stem + ".lora_a"], tensors[stem + ".lora_b"]
            wanted = delta.numpy()
            for key, field in {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.items():
                if key in name:
                    wanted = permute(wanted, self.config[field])
            assert np.abs(b @ a * (alpha / a.shape[0]) - wanted).max() < 1e-5, name
        print("gguf_lora:", len(self.deltas), "modules")


def check_kind(*args, everything):
    check = Check(*args)
    with tempfile.TemporaryDirectory() as out:
        out = pathlib.Path(out)
        check.check_merged(out)
        quantizations = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q5_k_m", "q6_k"]
        for quantization in quantizations if everything else quantizations[:1]:
            file = check.check_gguf(out, quantization)
            if quantization == "f32":
                check.check_again(out, file)
        check.check_lora(out)


def check_own_embeddings(tool, base):
    """On a base whose embedding is its head, an adapter with one of its own: the export has both."""
    ids = list(range(5, 60))
    for saved in (["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]):
        torch.manual_seed(1)
        options = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
        model = get_peft_model(load(base), options)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name or ("modules_to_save" in name and p.requires_grad):
                    p.add_(0.05 * torch.randn_like(p))
        with tempfile.TemporaryDirectory() as out:
            out = pathlib.Path(out)
            model.save_pretrained(out / "adapter")
            subprocess.run([tool, base, out / "adapter", "merged", "f32", out / "first"], check=True)
            subprocess.run([tool, base, out / "adapter", "gguf", "f32", out / "gguf"], check=True)
            subprocess.run([tool, out / "gguf/model-f32.gguf", "", "merged", "f32", out / "second"], check=True)
            for folder in (out / "first", out / "second"):
                worst = float((logits(load(folder), ids) - logits(model, ids)).abs().max())
                print("tied base,", saved, folder.name, "largest difference", worst)
                assert worst < 2e-4


def check_stored_bases(tool, kinds):
    """A base that bitsandbytes has quantized is written as the numbers that it stands for."""
    golden = load_file(kinds / "bases.safetensors")
    bounds = golden["cu_seqlens"].tolist()
    for kind in ("nf4", "int8"):
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([tool, kinds / f"bnb_{kind}", "", "merged", "f32", out], check=True)
            model = load(out)
            found = torch.cat([logits(model, golden["input_ids"][a:b].long().tolist()) for a, b in zip(bounds, bounds[1:])])
            worst = float((found - golden[kind]).abs().max())
            print("bitsandbytes", kind, "largest difference", worst)
            assert worst < 1e-5


def check_biases(tool, goldens):
    """Trained biases are merged; a LoRA GGUF has no place for them."""
    ids = list(range(3, 30))
    for name in ("bias_all", "bias_lora_only", "bias_dora"):
        with tempfile.TemporaryDirectory() as out:
            out = pathlib.Path(out)
            base, adapter = out / "base", goldens / "kinds" / name
            shutil.copytree(goldens / "kinds/biased", base)
            subprocess.run([tool, base, adapter, "merged", "f32", out / "first"], check=True)
            subprocess.run([tool, base, adapter, "gguf", "f32", out / "gguf"], check=True)
            subprocess.run([tool, out / "gguf/model-f32.gguf", "", "merged", "f32", out / "second"], check=True)
            wanted = logits(PeftModel.from_pretrained(load(base), adapter).merge_and_unload(), ids)
            for folder in (out / "first", out / "second"):
                worst = float((logits(load(folder), ids) - wanted).abs().max())
                print(name, folder.name, "largest difference", worst)
                assert worst < 2e-5
            done = subprocess.run([tool, base, adapter, "gguf_lora", "", out / "lora"], capture_output=True, text=True)
            assert done.returncode == 1 and "gguf instead" in done.stderr, done.stderr


def check_new_tokens(tool, base):
    """An adapter of peft with new tokens: its tokenizer and rows are in the exports."""
    text = "one<think>two"
    with tempfile.TemporaryDirectory() as out:
        out = pathlib.Path(out)
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens(["<think>"])
        ids = tokenizer(text)["input_ids"]
        model = load(base)
        model.resize_token_embeddings(len(tokenizer))
        torch.manual_seed(2)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"],
                                                 task_type="CAUSAL_LM"))
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.05 * torch.randn_like(p))
        model.save_pretrained(out / "adapter")
        tokenizer.save_pretrained(out / "adapter")
        subprocess.run([tool, base, out / "adapter", "merged", "f32", out / "first"], check=True)
        subprocess.run([tool, base, out / "adapter", "gguf", "f32", out / "gguf"], check=True)
        subprocess.run([tool, out / "gguf/model-f32.gguf", "", "merged", "f32", out / "second"], check=True)
        for folder in (out / "first", out / "second"):
            assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
            worst = float((logits(load(folder), ids) - logits(model, ids)).abs().max())
            print("new tokens", base.name, folder.name, "largest difference", worst)
            assert worst < 2e-4


def main():
    tool, goldens, model, *adapters = sys.argv[1:]
    if model == "families":
        return export_families.check_all(tool)
    for adapter in adapters:
        check_kind(tool, goldens, model, adapter, everything=adapter == adapters[0])
    check_new_tokens(tool, pathlib.Path(goldens, model))
    if json.load(open(pathlib.Path(goldens, model, "config.json")))["tie_word_embeddings"]:
        check_own_embeddings(tool, pathlib.Path(goldens, model))
    else:
        check_stored_bases(tool, pathlib.Path(goldens, "kinds"))
        check_biases(tool, pathlib.Path(goldens))


if __name__ == "__main__":
    main()
