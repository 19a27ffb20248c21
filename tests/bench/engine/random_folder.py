#!/usr/bin/env python3
"""Writes a Hugging Face folder of Llama-3.1-8B's shapes with random bfloat16 weights (16 GB): what step_bench --load
starts from. Needs numpy only.

random_folder.py FOLDER [LAYERS]
"""
import json
import os
import struct
import sys

import numpy

D, F, V, Q, KV = 4096, 14336, 128256, 4096, 1024


def tensors(layers):
    yield "model.embed_tokens.weight", (V, D)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (D,)
        yield p + "mlp.down_proj.weight", (D, F)
        yield p + "mlp.gate_proj.weight", (F, D)
        yield p + "mlp.up_proj.weight", (F, D)
        yield p + "post_attention_layernorm.weight", (D,)
        yield p + "self_attn.k_proj.weight", (KV, D)
        yield p + "self_attn.o_proj.weight", (D, Q)
        yield p + "self_attn.q_proj.weight", (Q, D)
        yield p + "self_attn.v_proj.weight", (KV, D)
    yield "model.norm.weight", (D,)
    yield "lm_head.weight", (V, D)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, layers = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 32
    os.makedirs(folder, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V, "hidden_size": D,
              "intermediate_size": F, "num_hidden_layers": layers, "num_attention_heads": 32,
              "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 131072,
              "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
              "attention_bias": False, "mlp_bias": False, "bos_token_id": 128000, "eos_token_id": 128001}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    header, offset = {}, 0
    for name, shape in tensors(layers):
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = numpy.random.default_rng(1).standard_normal(32 << 20, dtype=numpy.float32) * 0.02
    block = memoryview((values.view(numpy.uint32) >> 16).astype(numpy.uint16)).cast("B")  # bfloat16, truncated
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        while offset > 0:
            f.write(block[:min(offset, len(block))])
            offset -= min(offset, len(block))


if __name__ == "__main__":
    main()
