#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to tests/fuzz/corpus: small, valid inputs to start from.

Inputs that were findings once are kept beside them by hand, as found-*.
"""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def put(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def gguf_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value):
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    kind = {str: 8, int: 5, float: 6}[type(value[0])]
    items = b"".join(gguf_string(v) if kind == 8 else struct.pack("<i" if kind == 5 else "<f", v) for v in value)
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def gguf(metadata, tensors):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += gguf_string(key) + gguf_value(value)
    data = b""
    for name, shape, kind, raw in tensors:
        head += gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + data


def gguf_model():
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(16)] + ["a", "b", "ab", "\u2581"]
    metadata = {
        "general.architecture": "llama", "general.name": "tiny", "llama.block_count": 1, "llama.context_length": 64,
        "llama.embedding_length": 8, "llama.feed_forward_length": 16, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 4, "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 16 + [1] * 4, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}"}

    def f32(*shape):
        count = 1
        for n in shape:
            count *= n
        return shape, 0, struct.pack(f"<{count}f", *[0.5] * count)

    tensors = [("token_embd.weight", *f32(8, len(tokens))), ("output_norm.weight", *f32(8))]
    tensors += [("blk.0.attn_q.weight", *f32(8, 8)), ("blk.0.attn_k.weight", *f32(8, 4))]
    q8 = struct.pack("<e32b", 0.1, *range(32))
    return gguf(metadata, tensors), gguf({"general.alignment": 32}, [("x", (32,), 8, q8)])


def api_records(*calls):
    return b"".join(bytes([method]) + struct.pack("<H", len(request)) + request for method, request in calls)


def main():
    raw = struct.pack("<4f", 1, 2, 3, 4)
    put("safetensors", "two", safetensors([("a", "F32", [2, 2], raw), ("b", "BF16", [3], b"\0" * 6)], {"format": "pt"}))
    put("safetensors", "empty", safetensors([]))
    put("safetensors", "scalar", safetensors([("s", "F64", [], b"\0" * 8), ("i", "U8", [0], b"")]))
    model, block = gguf_model()
    put("gguf", "model", model)
    put("gguf", "block", block)
    put("hf_config", "tied", (ROOT / "tests/golden/parity/tied/config.json").read_bytes())
    put("hf_config", "generation", (ROOT / "tests/golden/format/tiny/config.json").read_bytes() + b"\0" +
        b'{"eos_token_id": [2, 3], "bos_token_id": 1}')
    for name in ("whitespace", "punctuation", "metaspace"):
        text = json.dumps(json.loads((ROOT / f"tests/golden/text/{name}.tokenizer.json").read_text()))
        put("tokenizer", name, text.encode() + b"\0Hello, w\xc3\xb6rld 12")
    put("tokenizer", "text", b"\0" + "It's 12.5 \u00e4\u1e9e \U0001f600\u200d  \t\n</s> \u4e2d\u6587".encode())
    put("chat_template", "chatml", (ROOT / "engine/text/templates/smollm2.jinja").read_bytes())
    put("chat_template", "llama3", (ROOT / "engine/text/templates/llama3.jinja").read_bytes())
    put("chat_template", "qwen", (ROOT / "engine/text/templates/qwen2_5_training.jinja").read_bytes())
    put("chat_template", "parts", "{%- macro m(a, b='x') -%}{{ a|upper ~ b }}{%- endmacro -%}{% set ns = namespace(n=0) %}"
        "{% for i in range(3) if i != 1 %}{% set ns.n = ns.n + i %}{{ m(loop.index, messages[0]['role'][::-1]) }}"
        "{% else %}-{% endfor %}{{ ns.n }}{% generation %}{{ messages | tojson(indent=2) }}{% endgeneration %}"
        "{{ '%05.2f' % 3.14159 }}{{ 'a,b'.split(',') | join('-') }}{{ strftime_now('%d %b %Y') }}")
    put("chat_template", "json", b"{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}\0"
        b'[{"role": "user", "content": " hi "}]')
    rows = {
        0: ['{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}',
            '{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}, '
            '{"role": "assistant", "content": "\\u00e4"}]}'],
        1: ['{"prompt": "a", "chosen": " b", "rejected": " c"}', '{"prompt": "d", "chosen": " e", "rejected": " f"}'],
        2: ['{"prompt": "a", "completion": " b", "label": true}', '{"prompt": "a", "completion": " c", "label": false}'],
        3: ['{"question": "1+1?", "answer": "2"}', '{"question": "2+2?", "answer": 4}']}
    for method, lines in rows.items():
        put("rows", f"method{method}", bytes([method]) + "\n".join(lines).encode() + b"\n")
    put("rows", "alpaca", b'\0{"instruction": "Add", "input": "1 2", "output": "3"}\r\n\n{"instruction": "x", "output": "y"}')
    put("rows", "text", b'\0{"text": "Some text.</s>", "extra": [1, {"a": null}]}\n')
    put("rows", "conversations", b'\0{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n')
    put("rewards", "schema", b'\x03{"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}, '
        b'"required": ["a"], "additionalProperties": false}\0{"a": 3}')
    put("rewards", "pattern", b"\x02(\\d+)\\s*$\0The answer is 42")
    put("rewards", "number", b"\x01#### (.*)\0#### 1,234.50")
    for name in ("sft", "dpo", "grpo"):
        text = (ROOT / f"deploy/examples/{name}.yaml").read_text()
        put("job_file", name, "\n".join(line.split("  #")[0] for line in text.splitlines() if not line.startswith("#")))
    put("config", "package", (ROOT / "deploy/package/config.yaml").read_bytes())
    put("config", "all", "socket: {path: /run/f.sock, allowed_uids: [1000]}\ntcp: {address: '127.0.0.1:9465', token_file: /t}\n"
        "models: {a: /m/a.gguf}\nmodel_roots: [/m]\nworker: {device: cpu, cancel_grace: 1m30s, vram_budget_bytes: 20GiB}\n"
        "quotas: {max_queued_jobs: 3, exempt: ['uid:0']}\naccess: {own_only: true}\n")
    put("api_text", "filter", b"\x02state = QUEUED AND labels.team != \"a b\"")
    put("api_text", "name", b"\x03jobs/sft-1")
    put("api_text", "error", b"\x04x/y.gguf: no such file")
    put("api_text", "page", b"\x00AAAA")
    put("scheduler", "bytes", bytes((i * 37 + 11) % 256 for i in range(400)))
    # GetServerInfo and the listings: requests without fields.
    put("calls", "empty", api_records(*[(method, b"") for method in range(8)]))


if __name__ == "__main__":
    main()
