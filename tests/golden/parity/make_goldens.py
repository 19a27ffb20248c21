"""Writes what parity_test compares with: tiny random Llama models and what transformers 5.23.0,
peft 0.21.2, trl 1.16.0, bitsandbytes 0.50.2 and torch 2.11.0 compute with them in float32 on the CPU.
Run: python make_goldens.py [path of SmolLM2-135M-Instruct.Q4_1.gguf]

untied/, tied/         Hugging Face folders with bfloat16 weights and a byte tokenizer.
*_adapter/             PEFT adapters with random A and B.
*.safetensors          logits, loss and adapter gradients of one packed batch.
trajectories.json      20 steps of SFTTrainer on the same rows, without shuffling.
schedules.json         learning rates of transformers' get_scheduler.
smollm2.json           loss of SmolLM2 (GGUF, dequantized by transformers) on a few rows; only with the
                       argument.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VOCAB = 264  # 256 bytes and 8 special tokens


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": [f"<s{i}>" for i in range(6)]})
    assert len(fast) == VOCAB
    return fast


def make_model(name, **changes):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=256, pad_token_id=257, **changes)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.08) if p.dim() == 2 else p.uniform_(0.5, 1.5)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_adapter(folder, name, rank, targets, **changes):
    torch.manual_seed(11)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets,
                        task_type="CAUSAL_LM", **changes)
    model = get_peft_model(load(folder), config)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.normal_(0, 0.05)
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    (path / "README.md").unlink()
    saved = json.loads((path / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = folder.name  # no path of this machine
    (path / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    return path


def random_rows(count, seed, low=6, high=40):
    g = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        n = int(torch.randint(low, high, (1,), generator=g))
        ids = torch.randint(0, 256, (n,), generator=g).tolist()
        prompt = int(torch.randint(1, n - 2, (1,), generator=g))
        rows.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * (n - prompt)})
    return rows


def shifted(row):
    ids, mask = row["input_ids"], row["completion_mask"]
    return [ids[t + 1] if mask[t + 1] else -100 for t in range(len(ids) - 1)] + [-100]


def documents_loss(model, rows):
    """One document at a time: nothing can leak. Loss is normalised by all targets."""
    logits, total, targets = [], 0.0, 0
    for row in rows:
        out = model(torch.tensor([row["input_ids"]])).logits[0]
        labels = torch.tensor(shifted(row))
        total = total + torch.nn.functional.cross_entropy(out, labels, ignore_index=-100, reduction="sum")
        targets += int((labels >= 0).sum())
        logits.append(out)
    return torch.cat(logits), total / targets


def golden_batch(file, folder, adapter, rows):
    model = PeftModel.from_pretrained(load(folder), adapter, is_trainable=True)
    logits, loss = documents_loss(model, rows)
    loss.backward()
    tensors = {"logits": logits.detach(), "loss": loss.detach().reshape(1)}
    for key, p in model.named_parameters():
        if p.grad is not None:
            tensors["grad." + key.replace(".default", "")] = p.grad
    with model.disable_adapter(), torch.no_grad():
        tensors["base_logits"] = documents_loss(model, rows)[0]
    tensors["input_ids"] = torch.tensor(sum((r["input_ids"] for r in rows), []), dtype=torch.int32)
    tensors["labels"] = torch.tensor(sum((shifted(r) for r in rows), []), dtype=torch.int32)
    bounds = torch.tensor([0] + [len(r["input_ids"]) for r in rows]).cumsum(0)
    tensors["cu_seqlens"] = bounds.to(torch.int32)
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / file)


def nf4_logits(folder, rows, names=ALL):
    """The linears of these names replaced by what bitsandbytes' CPU backend makes of them."""
    import bitsandbytes.functional as F

    model = load(folder)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if any(t + ".weight" in key for t in names):
                q, state = F.quantize_4bit(p.data, quant_type="nf4", blocksize=64, compress_statistics=True)
                p.copy_(F.dequantize_4bit(q, state))
        return documents_loss(model, rows)[0]


def trajectory(name, folder, adapter, rows, steps=20, **changes):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = dict(
        per_device_train_batch_size=2, gradient_accumulation_steps=1, max_steps=steps,
        learning_rate=5e-3, lr_scheduler_type="linear", warmup_steps=3, max_grad_norm=1.0,
        weight_decay=0.01, optim="adamw_torch", packing=False, padding_free=True, max_length=None)
    settings.update(changes)
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, train_sampling_strategy="sequential", logging_steps=1, report_to="none",
            save_strategy="no", bf16=False, use_cpu=True, gradient_checkpointing=False, seed=42,
            completion_only_loss=True, disable_tqdm=True, **settings)
        model = PeftModel.from_pretrained(load(folder), adapter, is_trainable=True)
        trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows),
                             processing_class=tokenizer())
        trainer.train()
        keys = ["loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "num_tokens", "epoch"]
        log = [{k: h[k] for k in keys} for h in trainer.state.log_history if "loss" in h]
    assert len(log) == steps, name
    return {"name": name, "model": folder.name, "adapter": adapter.name, "settings": settings, "steps": log}


def schedules():
    from transformers import get_scheduler

    cases = [
        ("linear", 5, {}), ("linear", 0, {}), ("cosine", 5, {}), ("cosine_with_restarts", 5, {"num_cycles": 3}),
        ("cosine_with_restarts", 0, {}), ("polynomial", 5, {}), ("constant", 5, {}),
        ("constant_with_warmup", 5, {}), ("inverse_sqrt", 5, {}), ("inverse_sqrt", 0, {}),
        ("cosine_with_min_lr", 5, {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", 5, {"num_decay_steps": 8}),
        ("warmup_stable_decay", 5, {"num_decay_steps": 8, "min_lr_ratio": 0.2}),
    ]
    out = []
    for name, warmup, kwargs in cases:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
        scheduler = get_scheduler(name, optimizer, warmup, 30, kwargs)
        rates = []
        for _ in range(32):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        out.append({"name": name, "warmup": warmup, "kwargs": kwargs, "total": 30, "rates": rates})
    return out


def smollm2(gguf):
    gguf = pathlib.Path(gguf)
    from transformers import AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    names = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    texts = ["The capital of France is Paris. It lies on the Seine.",
             "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
             "Once upon a time there was a small robot who wanted to learn to paint."]
    rows = [{"input_ids": (ids := names(t)["input_ids"]), "completion_mask": [1] * len(ids)} for t in texts]
    with torch.no_grad():
        logits, loss = documents_loss(model, rows)
    return {"rows": [r["input_ids"] for r in rows], "loss": float(loss),
            "last_logits": logits[-1][:16].tolist()}


def main():
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    untied = make_model("untied", tie_word_embeddings=False, rope_parameters=llama3)
    tied = make_model("tied", tie_word_embeddings=True)
    rows = random_rows(3, 1)
    every = make_adapter(untied, "untied_adapter", 4, ALL)
    some = make_adapter(tied, "tied_adapter", 8, ["q_proj", "v_proj", "down_proj"], use_rslora=True)
    large = make_adapter(tied, "large_adapter", 64, ["q_proj"])
    golden_batch("untied.safetensors", untied, every, rows)
    golden_batch("tied.safetensors", tied, some, rows)
    save_file({"logits": nf4_logits(untied, rows).contiguous(),
               "logits_head_too": nf4_logits(untied, rows, ALL + ["lm_head"]).contiguous()},
              HERE / "untied_nf4.safetensors")

    data = random_rows(22, 2)
    runs = [
        trajectory("padding_free", untied, every, data),
        trajectory("accumulation", untied, every, data, gradient_accumulation_steps=4,
                   per_device_train_batch_size=1),
        trajectory("packing", untied, every, data, packing=True, packing_strategy="bfd", max_length=48,
                   per_device_train_batch_size=1),
        trajectory("cosine_tied", tied, some, data, lr_scheduler_type="cosine", max_grad_norm=0.5),
        trajectory("adamw_8bit", tied, large, data, steps=10, optim="adamw_bnb_8bit", weight_decay=0.0),
    ]
    write("trajectories.json", {"rows": data, "runs": runs})
    write("schedules.json", schedules())
    if len(sys.argv) > 1:
        write("smollm2.json", smollm2(sys.argv[1]))


def write(name, value):
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
