"""Writes grpo.json: losses, gradients and metrics of TRL's GRPOTrainer._compute_loss, and the advantages
of _generate_and_score_completions, on small random inputs. Needs requirements-oracles.txt and
requirements-goldens.txt.

    python tests/golden/grpo/make_goldens.py
"""

import collections
import inspect
import json
import math
import pathlib
import textwrap
import types

import torch
import trl
from trl.trainer import grpo_trainer

HERE = pathlib.Path(__file__).parent
ROWS, LENGTH = 4, 6
MAX_COMPLETION = 8
VESPO = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}


class OneProcess:
    """Stands in for accelerate."""

    num_processes, process_index, sync_gradients = 1, 0, True
    gather = gather_for_metrics = staticmethod(lambda x: x)
    pad_across_processes = staticmethod(lambda x, dim=0, pad_index=0: x)
    reduce = staticmethod(lambda x, reduction="sum": x)


def trainer(case, logps, entropies):
    t = object.__new__(grpo_trainer.GRPOTrainer)
    t.accelerator = OneProcess()
    t.model = types.SimpleNamespace(training=True)
    t.aux_loss_enabled = t.use_vllm = t.use_adaptive_entropy = False
    t.entropy_coef = case["entropy_coef"]
    t._entropy_bonus_enabled = t.entropy_coef != 0
    t.off_policy_mask_threshold = None
    t.top_entropy_quantile = case["top_entropy_quantile"]
    t.importance_sampling_level = case["importance_sampling"]
    t.beta, t.loss_type = case["beta"], case["loss_type"]
    t.epsilon_low, t.epsilon_high = case["clip_low"], case["clip_high"]
    t.max_completion_length = MAX_COMPLETION
    t.current_gradient_accumulation_steps = case["accumulation"]
    t._metrics = {"train": collections.defaultdict(list)}
    t.args = types.SimpleNamespace(
        use_bias_correction_kl=case["use_bias_correction_kl"], delta=case["delta"],
        sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, steps_per_generation=case["micro_batches"],
        **{f"vespo_{k}": v for k, v in VESPO.items()})
    t._get_per_token_logps_and_entropies = lambda *a, **k: (logps, entropies, None)
    return t


def micro_batch(generator, case, all_truncated):
    def normal(scale):
        return torch.randn(ROWS, LENGTH, generator=generator, dtype=torch.float64) * scale

    lengths = torch.tensor([LENGTH, 3, 1, 5])
    mask = (torch.arange(LENGTH)[None] < lengths[:, None]).long()
    if case["masked_row"]:
        mask[1] = 0  # a truncated completion that is left out
    if all_truncated:
        mask[:] = 0
    logps = -normal(1.0).abs() - 0.05
    return {
        "logps": logps, "old": logps + normal(0.3), "ref": logps + normal(0.4),
        "entropies": normal(1.0).abs(), "mask": mask,
        "advantages": torch.randn(ROWS, generator=generator, dtype=torch.float64),
    }


def numbers(tensor, digits=8):
    return [None if math.isnan(x) else round(x, digits) for x in tensor.flatten().tolist()]


def loss_case(name, **changes):
    case = {"name": name, "loss_type": "dapo", "importance_sampling": "token", "beta": 0.0, "clip_low": 0.2,
            "clip_high": 0.2, "delta": None, "use_bias_correction_kl": False, "top_entropy_quantile": 1.0,
            "accumulation": 1, "micro_batches": 1, "masked_row": False, "on_policy": False,
            "all_truncated": False, "entropy_coef": 0.0}
    case.update(changes)
    generator = torch.Generator().manual_seed(len(name) * 1000 + sum(map(ord, name)))
    batches = [micro_batch(generator, case, case["all_truncated"]) for _ in range(case["micro_batches"])]
    items = sum(b["mask"].sum() for b in batches)
    case["steps"] = []
    for b in batches:
        logps = b["logps"].clone().requires_grad_(True)
        entropies = b["entropies"].clone().requires_grad_(case["entropy_coef"] != 0)
        inputs = {
            "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long), "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
            "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long), "completion_mask": b["mask"],
            "advantages": b["advantages"], "num_items_in_batch": items,
        }
        if not case["on_policy"]:
            inputs["old_per_token_logps"] = b["old"]
        if case["beta"]:
            inputs["ref_per_token_logps"] = b["ref"]
        t = trainer(case, logps, entropies)
        loss = t._compute_loss(None, inputs)
        loss.backward()
        keep = b["mask"].bool()
        case["steps"].append({
            "lengths": b["mask"].sum(1).tolist(), "advantages": numbers(b["advantages"]),
            "logps": numbers(b["logps"][keep]), "old": numbers(b["old"][keep]), "ref": numbers(b["ref"][keep]),
            "entropies": numbers(b["entropies"][keep]), "loss": numbers(loss.detach())[0],
            "d_logps": numbers(logps.grad[keep]),
            **({"d_entropies": numbers(entropies.grad[keep])} if case["entropy_coef"] else {}),
            "metrics": {k: (None if math.isnan(v[0]) else round(v[0], 8)) for k, v in t._metrics["train"].items()},
        })
    return case


def loss_cases():
    cases = []
    kinds = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
    for kind in kinds:
        high = {"clip_high": 1.2} if kind == "cispo" else {}  # there it is the cap itself
        for level in ["token", "sequence"]:
            for accumulation in [1, 4]:
                cases.append(loss_case(f"{kind}, {level}, accumulation {accumulation}", loss_type=kind,
                                       importance_sampling=level, accumulation=accumulation,
                                       micro_batches=accumulation, **high))
        cases.append(loss_case(f"{kind}, kl, masked row", loss_type=kind, beta=0.1, masked_row=True, **high))
        cases.append(loss_case(f"{kind}, entropy mask, corrected kl", loss_type=kind, beta=0.05,
                               use_bias_correction_kl=True, top_entropy_quantile=0.4, **high))
        cases.append(loss_case(f"{kind}, on policy", loss_type=kind, on_policy=True, **high))
        cases.append(loss_case(f"{kind}, entropy bonus", loss_type=kind, entropy_coef=0.05, accumulation=4,
                               micro_batches=4, masked_row=True, **high))
    cases.append(loss_case("dapo, entropy bonus and mask", entropy_coef=0.1, top_entropy_quantile=0.45, beta=0.1))
    for kind in ["grpo", "dapo", "luspo"]:
        cases.append(loss_case(f"{kind}, delta and clip higher", loss_type=kind, clip_high=0.28, delta=1.4))
        cases.append(loss_case(f"{kind}, nothing left", loss_type=kind, all_truncated=True))
    cases.append(loss_case("dapo, two windows of one rollout", accumulation=2, micro_batches=4))
    return cases


def advantage_lines():
    """TRL's lines from the rewards of each function to the advantages, as code."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    begin = source.index("        unscorable_mask = ")
    end = source.index("        # Slice to keep only the local part of the data")
    return compile(textwrap.dedent(source[begin:end]), "advantages", "exec")


def advantage_case(code, name, scores, weights, group_size, scale, aggregation):
    scores = torch.tensor(scores, dtype=torch.float64)
    me = types.SimpleNamespace(reward_weights=torch.tensor(weights, dtype=torch.float64), scale_rewards=scale,
                               multi_objective_aggregation=aggregation, reward_funcs=weights)
    space = {"self": me, "rewards_per_func": scores, "num_generations": group_size, "device": "cpu",
             "torch": torch, "nanstd": grpo_trainer.nanstd}
    exec(code, space)
    rewards = (scores * me.reward_weights).nansum(1)
    rewards[torch.isnan(scores).all(1)] = math.nan
    summary = torch.stack([rewards.nanmean(), grpo_trainer.nanstd(rewards).squeeze(),
                           space["is_std_zero"].double().mean()])
    return {"name": name, "scores": numbers(scores), "weights": weights, "group_size": group_size, "scale": scale,
            "aggregation": aggregation, "advantages": numbers(space["advantages"]), "rewards": numbers(rewards),
            "summary": numbers(summary), "means": numbers(scores.nanmean(0)),
            "stds": numbers(torch.stack([grpo_trainer.nanstd(scores[:, k]).squeeze() for k in range(len(weights))]))}


def advantage_cases():
    code = advantage_lines()
    nan = math.nan
    data = {
        "plain": [[1, 0.2], [0, 0.9], [1, 0.4], [0, 0.1], [1, 0.7], [1, 0.3], [0, 0.0], [0, 0.5]],
        "no spread": [[1, 1]] * 4 + [[0, 0], [1, 0], [0, 0], [1, 0]],
        "abstentions": [[1, nan], [nan, nan], [0, 0.3], [nan, 0.5], [nan, nan], [nan, nan], [nan, nan], [1, 1]],
    }
    return [advantage_case(code, f"{name}, {scale}, {aggregation}", scores, [1.0, 0.5], 4, scale, aggregation)
            for name, scores in data.items() for scale in ["group", "batch", "none"]
            for aggregation in ["sum_then_normalize", "normalize_then_sum"]]


def main():
    goldens = {"trl": trl.__version__, "torch": torch.__version__, "max_completion_tokens": MAX_COMPLETION,
               "advantages": advantage_cases(), "losses": loss_cases()}
    (HERE / "grpo.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
