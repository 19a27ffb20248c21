"""Writes what grpo_parity_test compares with: whole optimizer steps of trl 1.16.0's GRPOTrainer in float32 on the CPU with
the tiny model and adapter of ../parity ("untied"). Completions are given, not sampled. Needs requirements-oracles.txt and
requirements-goldens.txt.

    python tests/golden/grpo/make_step_goldens.py

steps.json   prompts; rollouts: completions of each and what they were worth; losses: one step without an update for every
             loss type and importance level, with one and four micro-batches, of the first rollout, whose old log
             probabilities are the policy's and some noise: loss, metrics, and of each adapter matrix the norm of its
             gradient and the product with cos(0), cos(1), ...; trajectories: 20 steps over all rollouts, each used twice.
"""

import json
import pathlib
import random
import sys
import tempfile

import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "preference"))
from make_goldens import PARITY, Gradients, dataset_of  # noqa: E402

PROMPTS, GROUP, ROLLOUTS, LONGEST, TEMPERATURE = 4, 4, 10, 8, 0.9
METRICS = ["kl", "entropy", "policy_loss", "clip_ratio/low_mean", "clip_ratio/low_min", "clip_ratio/high_mean",
           "clip_ratio/high_max", "clip_ratio/region_mean", "cispo_clip_ratio", "vespo/phi_seq_mean"]
OF_ROLLOUTS = ["reward", "reward_std", "frac_reward_zero_std"]
END = 256

# TRL shuffles the completions of a rollout; without it the order is that of the file.
grpo_trainer.shuffle_sequence_dict = lambda batch: batch


def make_rollouts():
    rng = random.Random(3)
    rollouts = []
    for _ in range(ROLLOUTS):
        completions = []
        for _ in range(PROMPTS * GROUP):
            length = rng.randint(1, LONGEST + 3)
            ids = [rng.randint(97, 122) for _ in range(min(length, LONGEST))]
            if length <= LONGEST:
                ids[-1] = END
            completions.append({"tokens": ids, "reward": round(rng.random(), 3)})
        rollouts.append(completions)
    return rollouts


class Trainer(GRPOTrainer):
    """Takes its completions from `rollouts`, and adds `noise` to the old log probabilities."""

    def __init__(self, rollouts, noise, *args, **kwargs):
        self.rollouts, self.noise, self.taken, self.losses, self.made = rollouts, noise, 0, [], []
        super().__init__(*args, **kwargs)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        self.taken += 1
        return [c["tokens"] for c in self.rollouts[self.taken - 1]], None

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        return torch.tensor([[c["reward"]] for c in self.rollouts[self.taken - 1]])

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if self.noise is not None:
            batch["old_per_token_logps"] = batch["old_per_token_logps"] + self.noise
        self.made.append(batch)
        return batch

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def make_trainer(prompts, rollouts, out, micro_batch, accumulation, noise=None, callbacks=(), **settings):
    config = GRPOConfig(
        output_dir=out, shuffle_dataset=False, logging_steps=1, report_to="none", save_strategy="no", bf16=False,
        use_cpu=True, gradient_checkpointing=False, seed=42, disable_tqdm=True, optim="adamw_torch",
        num_generations=GROUP, max_completion_length=LONGEST, temperature=TEMPERATURE, num_iterations=2,
        per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation, **settings)
    lora = json.loads((PARITY / "untied_adapter" / "adapter_config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(PARITY / "untied", dtype=torch.float32)
    trainer = Trainer(
        rollouts, noise, model=model, reward_funcs=[lambda **_: None], args=config,
        train_dataset=dataset_of([{"prompt": p} for p in prompts]),
        processing_class=AutoTokenizer.from_pretrained(PARITY / "untied"), callbacks=list(callbacks),
        peft_config=LoraConfig(r=lora["r"], lora_alpha=lora["lora_alpha"], lora_dropout=0.0,
                               target_modules=lora["target_modules"], task_type="CAUSAL_LM"))
    weights = load_file(PARITY / "untied_adapter" / "adapter_model.safetensors")
    set_peft_model_state_dict(trainer.model, weights)
    return trainer


def short(x):
    return float(f"{x:.8g}")


def log_of(trainer, accumulation, names):
    steps = []
    for i, h in enumerate(h for h in trainer.state.log_history if "grad_norm" in h):
        loss = sum(trainer.losses[i * accumulation:(i + 1) * accumulation])
        steps.append({"loss": short(loss), **{k: short(h[k]) for k in names if k in h}})
    return steps


def one_step(prompts, rollouts, noise, name, accumulation, **options):
    gradients = Gradients()
    micro_batch = PROMPTS * GROUP // accumulation
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(prompts, rollouts, out, micro_batch, accumulation, noise, [gradients], max_steps=1,
                               learning_rate=0.0, max_grad_norm=1e9, **options)
        trainer.train()
    made = trainer.made[0]
    old = [row[:len(c["tokens"])].tolist() for row, c in zip(made["old_per_token_logps"], rollouts[0])]
    case = {"name": f"{name}, accumulation {accumulation}", "micro_batch_size": micro_batch, "accumulation": accumulation,
            "options": options, "advantages": [short(x) for x in made["advantages"].tolist()],
            "step": log_of(trainer, accumulation, METRICS)[0],
            "gradients": {k: [short(x) for x in v] for k, v in gradients.found.items()}}
    return case, [[short(x) for x in row] for row in old]


def losses(prompts, rollouts):
    generator = torch.Generator().manual_seed(1)
    longest = max(len(c["tokens"]) for c in rollouts[0])
    noise = torch.randn(PROMPTS * GROUP, longest, generator=generator) * 0.3
    types = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
    cases = [(f"{t}, {level}", {"loss_type": t, "importance_sampling_level": level,
                                **({"epsilon_high": 1.2} if t == "cispo" else {})})
             for t in types for level in ["token", "sequence"]]
    cases += [("kl", {"beta": 0.1, "use_bias_correction_kl": False}),
              ("corrected kl", {"beta": 0.1, "use_bias_correction_kl": True}),
              ("masked", {"mask_truncated_completions": True}), ("entropy mask", {"top_entropy_quantile": 0.4}),
              ("entropy bonus", {"entropy_coef": 0.1}), ("delta", {"delta": 1.2, "epsilon_high": 0.28}),
              ("batch scale", {"scale_rewards": "batch"}), ("no scale", {"scale_rewards": "none", "loss_type": "dr_grpo"})]
    found = []
    for name, options in cases:
        for accumulation in [1, 4]:
            case, old = one_step(prompts, rollouts, noise, name, accumulation, **options)
            found.append(case)
    return found, old


def trajectory(prompts, rollouts, **options):
    settings = dict(max_steps=20, learning_rate=5e-3, lr_scheduler_type="linear", warmup_steps=3, max_grad_norm=1.0,
                    weight_decay=0.01)
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(prompts, rollouts, out, GROUP, PROMPTS, **settings, **options)
        trainer.train()
    assert trainer.taken == ROLLOUTS
    steps = log_of(trainer, PROMPTS, ["grad_norm", "learning_rate", *METRICS, *OF_ROLLOUTS])
    return {"settings": settings, "options": options, "micro_batch_size": GROUP, "accumulation": PROMPTS, "steps": steps}


def main():
    prompts = ["abc", "hello there", "what is it", "q"]
    rollouts = make_rollouts()
    cases, old = losses(prompts, rollouts)
    golden = {"prompts": prompts, "group_size": GROUP, "max_completion_tokens": LONGEST, "temperature": TEMPERATURE,
              "rollouts": rollouts, "old": old, "losses": cases,
              "trajectories": [trajectory(prompts, rollouts, beta=0.04, use_bias_correction_kl=True),
                               trajectory(prompts, rollouts, loss_type="grpo", importance_sampling_level="sequence")]}
    (HERE / "steps.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
