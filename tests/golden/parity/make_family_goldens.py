"""Writes what family_parity_test compares with: a tiny random model of each family, and what transformers 5.23.0, peft
0.21.2 and torch 2.11.0 compute with it in float32 on the CPU. Run: python make_family_goldens.py [family or .gguf ...]

families/NAME/             Hugging Face folder with bfloat16 weights, without tokenizer.
families/NAME_adapter/     PEFT adapter of every linear with random A and B.
families/NAME.gguf         the same weights, written with gguf 0.19.0.
families/NAME.safetensors  logits, loss and adapter gradients of three documents; prompt and greedy answer.
gemma3.json                loss and greedy answers of Gemma 3 270M, for the path of its GGUF file (tests/fetch_gemma3.sh).
"""

import math
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

import make_goldens as shared

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64, bos_token_id=None, eos_token_id=90, pad_token_id=91)
WIDE = dict(SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=16)  # heads wider than the hidden size
DEEP = dict(SIZES, num_hidden_layers=4)  # the fourth layer is another kind
EPS = dict(rms_norm_eps=1e-5)
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
WINDOW = 8

# Name: (configuration class, its arguments).
FAMILIES = {
    "nemo": ("Mistral", dict(WIDE, **EPS, sliding_window=None)),
    "mistral": ("Mistral", dict(SIZES, **EPS, head_dim=16, sliding_window=WINDOW)),
    "qwen2": ("Qwen2", dict(SIZES, **EPS)),
    "qwen3": ("Qwen3", dict(WIDE, **EPS)),
    "smollm3": ("SmolLM3", dict(DEEP, **EPS)),
    "phi3": ("Phi3", dict(SIZES, **EPS, sliding_window=WINDOW)),
    "phi3_long": ("Phi3", dict(SIZES, **EPS, original_max_position_embeddings=16, rope_parameters={
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
        "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 1.5, 2.5, 4.0],
        "original_max_position_embeddings": 16})),
    "granite": ("Granite", dict(SIZES, **EPS, embedding_multiplier=3.0, residual_multiplier=0.3,
                                attention_multiplier=0.1, logits_scaling=2.0)),
    "gemma": ("Gemma", dict(WIDE, **EPS)),
    "gemma2": ("Gemma2", dict(WIDE, **EPS, sliding_window=WINDOW, query_pre_attn_scalar=16, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3Text", dict(WIDE, **EPS, sliding_window=WINDOW, query_pre_attn_scalar=24,
                                  layer_types=["sliding_attention", "full_attention"], rope_parameters={
                                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                      "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}})),
    # The text part of a model with images, in layers as GGUF has them.
    "gemma3_images": ("Gemma3", dict(
        text_config=dict(WIDE, **EPS, sliding_window=WINDOW, query_pre_attn_scalar=16),
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14),
        mm_tokens_per_image=4, boi_token_index=92, eoi_token_index=93, image_token_index=94, eos_token_id=90, pad_token_id=91)),
    "cohere": ("Cohere", dict(SIZES, use_qk_norm=True, logit_scale=0.25)),
    "cohere2": ("Cohere2", dict(DEEP, head_dim=16, sliding_window=WINDOW, logit_scale=0.5)),
}
MODELS = {"Gemma3Text": "Gemma3ForCausalLM", "Gemma3": "Gemma3ForConditionalGeneration"}
IMAGES = ".*(vision_tower|multi_modal_projector).*"  # modules without adapters
# The same models as GGUF files: llama.cpp's name of the family, and what its files say beside sizes. Their layers follow
# llama.cpp's pattern, which no key tells.
GGUF = {
    "qwen2": ("qwen2", {}), "qwen3": ("qwen3", {}), "smollm3": ("smollm3", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW, "rope_dimension_count": 16}),
    "phi3_long": ("phi3", {"rope_dimension_count": 8, "rope_scaling_orig_ctx_len": 16}),
    "granite": ("granite", {"embedding_scale": 3.0, "residual_scale": 0.3, "attention_scale": 0.1, "logit_scale": 2.0}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "cohere": ("command-r", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {"logit_scale": 0.5, "sliding_window": WINDOW}),
}
PERMUTED = ("smollm3", "granite")  # rows of q and k in llama.cpp's rotary order


def make_model(folder, kind, settings):
    torch.manual_seed(7)
    config = getattr(transformers, kind + "Config")(**settings)
    model = getattr(transformers, MODELS.get(kind, kind + "ForCausalLM"))(config)
    ones = 0.0 if kind.startswith("Gemma") else 1.0  # Gemma adds one itself
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm" in key:
                p.uniform_(ones - 0.5, ones + 0.5)
            elif "embed" in key and kind in ("Gemma2", "Gemma3Text", "Gemma3"):
                p.normal_(0, 0.05)  # times sqrt(hidden size), and tied: larger ones answer with the last token for ever
            else:
                p.normal_(0, 0.2)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)


def load(folder):
    # Softcaps are computed by the plain implementation alone.
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def greedy(model, prompt, tokens):
    """Without a cache: each token from a forward over everything before it."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            assert best.values[0] - best.values[1] > 1e-3, "two tokens are too close to tell apart"
            ids.append(int(best.indices[0]))
    return ids[len(prompt):]


def permuted(weight, heads):
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def make_gguf(name):
    """What llama.cpp's converter writes, with the gguf package's own names of tensors and keys."""
    import gguf

    arch, keys = GGUF[name]
    folder = shared.HERE / "families" / name
    config = transformers.AutoConfig.from_pretrained(folder)
    writer = gguf.GGUFWriter(folder.with_suffix(".gguf"), arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, value in keys.items():
        getattr(writer, "add_" + key)(value)
    if name == "phi3_long":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_attn_factors((1 + math.log(4) / math.log(16)) ** 0.5)
        for kind in ("long", "short"):
            factors = np.array(config.rope_parameters[kind + "_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)
    known = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[arch], config.num_hidden_layers)
    for key, tensor in load_file(folder / "model.safetensors").items():
        tensor = tensor.float().numpy()
        if ".q_proj." in key and arch in PERMUTED:
            tensor = permuted(tensor, config.num_attention_heads)
        if ".k_proj." in key and arch in PERMUTED:
            tensor = permuted(tensor, config.num_key_value_heads)
        if arch.startswith("gemma") and "norm" in key:
            tensor = tensor + 1
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if tensor.ndim == 1 or "norm" in key:
            writer.add_tensor(target, tensor)
        else:
            bits = (np.ascontiguousarray(tensor).view(np.uint32) >> 16).astype(np.uint16)  # stored weights are bfloat16
            writer.add_tensor(target, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_family(name):
    kind, settings = FAMILIES[name]
    folder = shared.HERE / "families" / name
    make_model(folder, kind, settings)
    shared.load = load
    options = dict(exclude_modules=IMAGES) if kind == "Gemma3" else {}
    adapter = shared.make_adapter(folder, f"families/{name}_adapter", 2, FUSED if kind == "Phi3" else shared.ALL, **options)
    rows = shared.random_rows(3, 1, low=18, high=28)
    for row in rows:
        row["input_ids"] = [i % 90 if kind == "Gemma3" else i % settings["vocab_size"] for i in row["input_ids"]]
    shared.golden_batch(f"families/{name}.safetensors", folder, adapter, rows)
    path = shared.HERE / "families" / f"{name}.safetensors"
    tensors = load_file(path)
    del tensors["base_logits"]
    prompt = rows[0]["input_ids"]
    answer = greedy(PeftModel.from_pretrained(load(folder), adapter), prompt, 12)
    tensors["prompt"] = torch.tensor(prompt, dtype=torch.int32)
    tensors["answer"] = torch.tensor(answer, dtype=torch.int32)
    save_file(tensors, path)
    if name in GGUF:
        make_gguf(name)
    print(name, float(tensors["loss"]), answer)


def make_gemma3(gguf):
    out = shared.smollm2(gguf)
    path = pathlib.Path(gguf)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    out["answers"] = [{"prompt": row[:8], "answer": greedy(model, row[:8], 12)} for row in out["rows"]]
    shared.write("gemma3.json", out)
    print(out["loss"], out["answers"])


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        make_gemma3(family) if family.endswith(".gguf") else make_family(family)
