"""Writes what preference_parity_test compares with: what trl 1.16.0 (transformers 5.23.0, peft 0.21.2, torch 2.11.0)
computes in float32 on the CPU with the tiny model and adapter of ../parity ("untied").
Run: python make_goldens.py

dpo.jsonl, kto.jsonl, chat.jsonl   the rows, as a user writes them.
tokens.json                        their tokens: prompt, and each answer.
losses.json                        one step of DPOTrainer and KTOTrainer without an update, for every loss type:
                                   loss, metrics, and of each adapter matrix the norm of its gradient and the product
                                   with cos(0), cos(1), ...
trajectories.json                  20 steps of each.
start_adapter.json                 8 steps of each from a trained adapter, which is also the reference.
"""

import hashlib
import json
import pathlib
import random
import sys
import tempfile

import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

HERE = pathlib.Path(__file__).parent
PARITY = HERE.parent / "parity"
TEMPLATE = (
    "{% for m in messages %}<s0>{{ m['role'] }}\n{{ m['content'] }}<s1>\n{% endfor %}"
    "{% if add_generation_prompt %}<s0>assistant\n{% endif %}"
)
MAX_LENGTH = 40
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
           "logps/rejected", "logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy", "kl"]


def words(rng, low, high):
    return "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(low, high)))


def make_rows():
    rng = random.Random(5)
    dpo = [{"prompt": words(rng, 3, 12), "chosen": " " + words(rng, 2, 30), "rejected": " " + words(rng, 2, 30)}
           for _ in range(16)]
    dpo[3]["prompt"] = words(rng, 45, 50)  # longer than max_length: dropped
    kto = [{"prompt": words(rng, 3, 12), "completion": " " + words(rng, 2, 30), "label": i % 3 != 1}
           for i in range(16)]
    kto[2]["label"] = kto[3]["label"] = True  # micro-batches of one class
    chat = [{"prompt": [{"role": "user", "content": words(rng, 3, 9)}],
             "chosen": [{"role": "assistant", "content": words(rng, 2, 9)}],
             "rejected": [{"role": "assistant", "content": words(rng, 2, 9)}]} for _ in range(3)]
    return dpo, kto, chat


def write(name, value):
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


def write_rows(name, rows):
    (HERE / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def dataset_of(rows):
    """With a fingerprint of our own: datasets 5.2.0 cannot hash a table of pyarrow 26."""
    return Dataset(InMemoryTable.from_pylist(rows), fingerprint=hashlib.sha256(json.dumps(rows).encode()).hexdigest())


class Gradients(TrainerCallback):
    """What the adapter's gradients are before the optimizer's step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {}
        for name, p in model.named_parameters():
            if p.grad is not None:
                g = p.grad.double().flatten()
                key = name.split("model.layers.")[1].replace(".default", "").replace(".weight", "")
                self.found[key] = [g.norm().item(), (g * torch.cos(torch.arange(len(g)).double())).sum().item()]


def make_trainer(kind, rows, out, callbacks=(), from_adapter=False, **settings):
    config_type, trainer_type = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer)}[kind]

    class Trainer(trainer_type):
        def __init__(self, *args, **kwargs):
            self.losses = []
            super().__init__(*args, **kwargs)

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            self.losses.append(loss.item())
            return loss

    config = config_type(
        output_dir=out, train_sampling_strategy="sequential", logging_steps=1, report_to="none", save_strategy="no",
        bf16=False, use_cpu=True, gradient_checkpointing=False, seed=42, disable_tqdm=True, max_length=MAX_LENGTH,
        optim="adamw_torch", **settings)
    lora = json.loads((PARITY / "untied_adapter" / "adapter_config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(PARITY / "untied", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(PARITY / "untied")
    tokenizer.chat_template = TEMPLATE
    if from_adapter:  # the trainer makes a frozen copy of it: "ref"
        model = PeftModel.from_pretrained(model, PARITY / "untied_adapter", is_trainable=True)
        return Trainer(model=model, args=config, train_dataset=dataset_of(rows), processing_class=tokenizer)
    trainer = Trainer(model=model, args=config, train_dataset=dataset_of(rows), processing_class=tokenizer,
                      peft_config=LoraConfig(r=lora["r"], lora_alpha=lora["lora_alpha"], lora_dropout=0.0,
                                             target_modules=lora["target_modules"], task_type="CAUSAL_LM"),
                      callbacks=list(callbacks))
    # Loaded afterwards: the reference is the base, the start an adapter that is not zero.
    weights = load_file(PARITY / "untied_adapter" / "adapter_model.safetensors")
    set_peft_model_state_dict(trainer.model, weights)
    return trainer


def log_of(trainer, accumulation):
    steps = []
    for i, h in enumerate(h for h in trainer.state.log_history if "loss" in h):
        losses = trainer.losses[i * accumulation:(i + 1) * accumulation]
        steps.append({"loss": sum(losses) / len(losses), "grad_norm": h["grad_norm"],
                      **{k: h[k] for k in METRICS if k in h}})
    return steps


def one_step(kind, name, rows, batch, accumulation, **options):
    gradients = Gradients()
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(kind, rows, out, [gradients], per_device_train_batch_size=batch,
                               gradient_accumulation_steps=accumulation, max_steps=1, learning_rate=0.0,
                               max_grad_norm=1e9, **options)
        trainer.train()
        step = log_of(trainer, accumulation)[0]
    return {"name": name, "method": kind, "micro_batch_size": batch, "accumulation": accumulation,
            "options": options, "step": step, "gradients": gradients.found}


def losses(dpo, kto):
    smoothed = {"exo_pair", "robust", "aot", "aot_unpaired"}
    types = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
             "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"]
    cases = [(t, {"loss_type": [t], **({"label_smoothing": 0.1} if t in smoothed else {})}) for t in types]
    cases += [
        ("forward_kl", {"f_divergence_type": "forward_kl"}),
        ("js_divergence", {"f_divergence_type": "js_divergence"}),
        ("alpha_divergence", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.6}),
        ("ipo_forward_kl", {"loss_type": ["ipo"], "f_divergence_type": "forward_kl"}),
        ("several", {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.3}),
        ("ld_alpha", {"ld_alpha": 0.5, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ("use_weighting", {"use_weighting": True}),
        ("use_weighting_two", {"use_weighting": True, "loss_type": ["bco_pair", "ipo"], "loss_weights": [1.0, 0.5]}),
        ("precompute", {"precompute_ref_log_probs": True}),
    ]
    found = []
    for name, options in cases:
        found.append(one_step("dpo", name + "_1", dpo, 4, 1, **options))
        found.append(one_step("dpo", name + "_4", dpo, 2, 4, **options))
    for loss_type in ["kto", "apo_zero_unpaired"]:
        options = {"loss_type": loss_type, "desirable_weight": 1.5, "undesirable_weight": 0.7}
        found.append(one_step("kto", loss_type + "_1", kto, 4, 1, **options))
        found.append(one_step("kto", loss_type + "_4", kto, 2, 4, **options))
    return found


def trajectory(kind, rows, steps=20, from_adapter=False):
    settings = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=steps, learning_rate=5e-3,
                    lr_scheduler_type="linear", warmup_steps=3, max_grad_norm=1.0, weight_decay=0.01)
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(kind, rows, out, from_adapter=from_adapter, **settings)
        trainer.train()
        # An epoch may end with a window of fewer micro-batches.
        return {"method": kind, "settings": settings, "losses": trainer.losses,
                "steps": [{k: h[k] for k in ["grad_norm", "learning_rate", "num_tokens", "epoch", *METRICS] if k in h}
                          for h in trainer.state.log_history if "loss" in h]}


def tokens(dpo, kto, chat):
    def of(kind, rows, *columns):
        with tempfile.TemporaryDirectory() as out:
            data = make_trainer(kind, rows, out, max_steps=1, per_device_train_batch_size=2).train_dataset
        return [[row[c] for c in columns] for row in data]

    return {"max_length": MAX_LENGTH, "template": TEMPLATE,
            "dpo": of("dpo", dpo, "prompt_ids", "chosen_ids", "rejected_ids"),
            "chat": of("dpo", chat, "prompt_ids", "chosen_ids", "rejected_ids"),
            "kto": of("kto", kto, "prompt_ids", "completion_ids", "KL_completion_ids")}


def main():
    dpo, kto, chat = make_rows()
    write_rows("dpo.jsonl", dpo)
    write_rows("kto.jsonl", kto)
    write_rows("chat.jsonl", chat)
    write("tokens.json", tokens(dpo, kto, chat))
    write("losses.json", losses(dpo, kto))
    write("trajectories.json", [trajectory("dpo", dpo), trajectory("kto", kto)])
    write("start_adapter.json", [trajectory(kind, rows, 8, True) for kind, rows in (("dpo", dpo), ("kto", kto))])


if __name__ == "__main__":
    sys.exit(main())
