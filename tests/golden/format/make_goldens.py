"""Writes what the reference libraries make of small model files.

Pinned: gguf 0.19.0, safetensors 0.8.0, transformers 5.23.0, torch 2.11.0, numpy 2.4.6.
Run: python make_goldens.py [path of SmolLM2-135M-Instruct.Q4_1.gguf]

blocks.safetensors  for each GGUF type T: T.data (bytes of a few blocks) and T.f32 (gguf's dequantize)
writer.safetensors  what safetensors writes for the tensors of safetensors_test.cc
tiny/               a random Llama model of 2 layers as a Hugging Face folder of two bf16 shards
tiny.gguf           the same weights, q and k rows permuted as llama.cpp's converter does
goldens.json        checksums of all f16 values and of SmolLM2's tensors; rotary frequencies
"""

import hashlib
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import safetensors.numpy
import torch
from gguf import GGMLQuantizationType as Type
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = pathlib.Path(__file__).parent
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TOKENS = list("abcdefghijklmnopqrstuvwxyz") + ["Ġ", "ab", "<s>", "</s>"]
MERGES = ["a b"]


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def random_blocks(rng, qtype, n):
    """n blocks of random bytes whose f16 scales are finite."""
    _, size = gguf.GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in {Type.Q6_K: [208], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2]}[qtype]:
        scales = rng.normal(0, 0.01, n).astype(np.float16)
        scales[0] = np.float16(3e-7)  # subnormal
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(n, 2)
    return blocks


def write_blocks():
    rng = np.random.default_rng(1)
    tensors = {}
    for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
        qtype = Type[name]
        values = rng.normal(0, 1, (4, 64)).astype(np.float32)
        values[1] *= 1e-6
        values[2, 3] = 0
        tensors[name + ".data"] = np.ascontiguousarray(gguf.quantize(values, qtype)).view(np.uint8)
    for name in ["Q4_K", "Q5_K", "Q6_K"]:
        tensors[name + ".data"] = random_blocks(rng, Type[name], 3)
    for key in list(tensors):
        name = key.removesuffix(".data")
        f32 = gguf.dequantize(tensors[key], Type[name])
        assert np.isfinite(f32).all()
        tensors[name + ".f32"] = np.ascontiguousarray(f32).ravel()
        tensors[key] = tensors[key].ravel()
    safetensors.numpy.save_file(tensors, HERE / "blocks.safetensors")


def write_writer_example():
    tensors = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.weight": np.arange(3, dtype=np.float16),
        "codes": np.arange(5, dtype=np.uint8),
        "step": np.array([7], dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    safetensors.numpy.save_file(tensors, HERE / "writer.safetensors", metadata={"format": "pt"})


def tiny_config():
    return LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
                       rms_norm_eps=1e-5, rope_theta=50000.0, bos_token_id=28, eos_token_id=29,
                       initializer_range=0.3, tie_word_embeddings=False)


def write_tokenizer(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(TOKENS)}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE,
         "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1) + "\n")


def write_tiny_folder():
    torch.manual_seed(3)
    model = LlamaForCausalLM(tiny_config())
    for name, p in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(p, 1.0, 0.1)
    # Through f16 and bf16: both files can hold the weights exactly.
    model = model.half().bfloat16()
    folder = HERE / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size="30KB")
    write_tokenizer(folder)
    return {k: v.float().numpy() for k, v in model.state_dict().items()}


GGUF_LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight":
           "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def permute(weights, heads):
    """Row order of llama.cpp: the two halves of each head are interleaved."""
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def unpermute(weights, heads):
    return (weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def write_tiny_gguf(state):
    c = tiny_config()
    w = gguf.GGUFWriter(HERE / "tiny.gguf", "llama")
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(50000.0)
    w.add_rope_dimension_count(c.head_dim)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(TOKENS)
    w.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    w.add_token_merges(MERGES)
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)
    w.add_chat_template(CHAT_TEMPLATE)
    for name, weights in state.items():
        if "q_proj" in name:
            weights = permute(weights, c.num_attention_heads)
        if "k_proj" in name:
            weights = permute(weights, c.num_key_value_heads)
        qtype = Type.F32 if weights.ndim == 1 else Type.F16 if "mlp" in name else Type.BF16
        w.add_tensor(gguf_name(name), gguf.quantize(weights, qtype), raw_dtype=qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def rope_cases():
    cases = []
    for theta, head_dim, scaling in [
            (10000.0, 64, None), (100000.0, 64, None), (500000.0, 128, None),
            (10000.0, 8, {"rope_type": "linear", "factor": 4.0}),
            (1000000.0, 128, {"rope_type": "linear", "factor": 2.5}),
            (500000.0, 128, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
            (500000.0, 64, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})]:
        rope = {"rope_theta": theta, "rope_type": "default", **(scaling or {})}
        config = LlamaConfig(vocab_size=32, hidden_size=head_dim * 2, intermediate_size=32,
                             num_hidden_layers=1, num_attention_heads=2, head_dim=head_dim,
                             rope_parameters=rope)
        frequencies = LlamaRotaryEmbedding(config).inv_freq.numpy()
        assert frequencies.dtype == np.float32
        cases.append({"config": json.loads(config.to_json_string(use_diff=False)),
                      "bits": frequencies.view(np.uint32).tolist()})
    for case in cases:  # only what the parser reads
        keep = ("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size",
                "num_hidden_layers", "num_attention_heads", "head_dim", "rope_parameters")
        case["config"] = {k: v for k, v in case["config"].items() if k in keep}
    return cases


def smollm2_tensors(path):
    """sha256 of the float32 bytes in Hugging Face row order."""
    reader = gguf.GGUFReader(path)
    heads = {"attn_q": 9, "attn_k": 3}
    wanted = {"token_embd.weight": "model.embed_tokens.weight",
              "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
              "blk.7.attn_k.weight": "model.layers.7.self_attn.k_proj.weight",
              "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
              "output_norm.weight": "model.norm.weight"}
    sums = {}
    for t in reader.tensors:
        if t.name in wanted:
            f32 = gguf.dequantize(t.data, t.tensor_type)
            for key, n in heads.items():
                if key in t.name:
                    f32 = unpermute(f32, n)
            sums[wanted[t.name]] = sha(f32.astype(np.float32))
    return sums


def main():
    default = HERE.parents[2] / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    model = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    write_blocks()
    write_writer_example()
    write_tiny_gguf(write_tiny_folder())
    halves = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16)
    halves = halves[~np.isnan(halves)]
    goldens = {"f16_all_but_nan": sha(halves.astype(np.float32)), "rope": rope_cases(),
               "smollm2": smollm2_tensors(model)}
    (HERE / "goldens.json").write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
