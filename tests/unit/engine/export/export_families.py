"""Exports of every family of models: tiny random ones with an adapter, those of tests/golden/parity/families.

merged      transformers' logits equal those of base and adapter
gguf        names, types, shapes and numbers of tensors and every key that loaders go by are those the package gguf writes
            (the golden .gguf files of tests/golden/parity); transformers loads the file where it knows the architecture; our own
            reader makes a Hugging Face folder of it with the same logits; what llama.cpp does not have is refused
Used by export_loads.py and tests/bench/export/llama_cpp_families.py.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

GOLDENS = pathlib.Path(__file__).resolve().parents[4] / "tests/golden/parity"
sys.path.append(str(GOLDENS))
import make_family_goldens  # noqa: E402

NAMES = list(make_family_goldens.FAMILIES)
# Parts that GGUF does not tell, as llama.cpp has them; the rest is that of the goldens.
AS_LLAMA_CPP = {
    "cohere": dict(use_qk_norm=False),  # which llama.cpp expects of 64 layers
    "gemma3": dict(num_hidden_layers=7, query_pre_attn_scalar=16, layer_types=None),
}
# What llama.cpp would take for something else, or has no place for, and what the message says.
REFUSED = [
    ("cohere", {}, "command-r have no place for norms of q and k in less than 64 layers"),
    ("gemma3", {}, "no keys for the layers' pattern of windows and positions of this gemma3 model"),
    ("gemma3", {"query_pre_attn_scalar": 24, "layer_types": ["sliding_attention"] * 2}, "no keys for the scale of the scores"),
    ("gemma2", {"attn_logit_softcapping": None}, "gemma2 have no place for scores without a softcap"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "no keys for the layers' pattern of windows and positions"),
    ("cohere2", {"layer_types": ["full_attention"] + ["sliding_attention"] * 3}, "pattern of windows and positions"),
    ("smollm3", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
     "smollm3 have no place for the RoPE scaling of Llama 3"),
]
TRANSFORMERS_READS = ("mistral", "nemo", "qwen2", "qwen3")


def load(path, **options):
    # Softcaps are computed by the plain implementation alone.
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", **options).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def small_tokenizer(tokens, folder):
    """The byte tokenizer of the goldens, cut down to a vocabulary of so many tokens, with a merge: llama.cpp wants one."""
    whole = json.load(open(GOLDENS / "untied/tokenizer.json"))
    whole["pre_tokenizer"]["use_regex"] = True
    whole["model"]["vocab"] = {k: v for k, v in whole["model"]["vocab"].items() if v < tokens - 3} | {"he": tokens - 3}
    whole["model"]["merges"] = [["h", "e"]]
    whole["added_tokens"] = [dict(a, id=tokens - 2 + i) for i, a in enumerate(whole["added_tokens"][:2])]
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    config = json.load(open(GOLDENS / "untied/tokenizer_config.json"))
    config = {k: v for k, v in config.items() if k in ("eos_token", "pad_token", "tokenizer_class")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def prepare(name, out, changes=None):
    """A folder with tokenizer and the adapter's folder. changes: of the golden's configuration; the weights are random then."""
    base, adapter = out / "base", GOLDENS / "families" / f"{name}_adapter"
    changes = changes or AS_LLAMA_CPP.get(name)
    if changes:
        kind, settings = make_family_goldens.FAMILIES[name]
        make_family_goldens.make_model(base, kind, dict(settings, **changes))
        make_family_goldens.shared.load = load
        linears = make_family_goldens.FUSED if kind == "Phi3" else make_family_goldens.shared.ALL
        adapter = make_family_goldens.shared.make_adapter(base, out.resolve() / "adapter", 2, linears)
    else:
        shutil.copytree(GOLDENS / "families" / name, base)
    small_tokenizer(AutoConfig.from_pretrained(base).get_text_config().vocab_size, base)
    return base, adapter


def check_against_golden(name, file):
    """The base alone equals what gguf's own writer makes of it."""
    ours, golden = gguf.GGUFReader(file), gguf.GGUFReader(GOLDENS / "families" / f"{name}.gguf")
    found, wanted = ({t.name: t for t in reader.tensors} for reader in (ours, golden))
    assert set(found) == set(wanted), set(found) ^ set(wanted)
    for key, tensor in wanted.items():
        assert list(found[key].shape) == list(tensor.shape), key
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(numbers.ravel(), gguf.dequantize(found[key].data, found[key].tensor_type).ravel()), key
    for key, field in golden.fields.items():
        if key.startswith("GGUF.") or key.endswith("rope.scaling.type"):  # llama.cpp's converter leaves that out
            continue
        value, same = field.contents(), ours.fields[key].contents()
        assert same == value or abs(same - value) < 1e-6 * abs(value), (key, same, value)


def check(tool, name, out):
    base, adapter = prepare(name, out)
    wanted = PeftModel.from_pretrained(load(base), adapter).eval()
    ids = list(range(3, 30))

    def export(source, with_adapter, kind, folder):
        subprocess.run([tool, source, with_adapter, kind, "f32", out / folder], check=True)
        return out / folder

    def compare(what, model, ids=ids):
        worst = float((logits(model, ids) - logits(wanted, ids)).abs().max())
        print(name, what, "largest difference", worst, "tokens", len(ids))
        assert worst < 2e-5

    compare("merged:", load(export(base, adapter, "merged", "merged")))
    file = export(base, adapter, "gguf", "gguf") / "model-f32.gguf"
    reader = gguf.GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    context = reader.fields[architecture + ".context_length"].contents()
    if (GOLDENS / "families" / f"{name}.gguf").exists() and name not in AS_LLAMA_CPP:
        check_against_golden(name, export(base, "", "gguf", "alone") / "model-f32.gguf")
    if name in TRANSFORMERS_READS:
        config = AutoConfig.from_pretrained(base)
        # It reads Qwen 3's files as if heads had 128 numbers.
        options = {"config": config} if name == "qwen3" else {}
        compare("gguf in transformers:", load(file.parent, gguf_file=file.name, **options), ids[:context])
    compare("gguf read by us:", load(export(file, "", "merged", "again")), ids[:context])


def check_refused(tool, name, changes, message, out):
    shutil.copytree(GOLDENS / "families" / name, out / "base")
    config = json.load(open(out / "base/config.json"))
    (out / "base/config.json").write_text(json.dumps(config | changes))
    small_tokenizer(config["vocab_size"], out / "base")
    done = subprocess.run([tool, out / "base", "", "gguf", "f32", out / "gguf"], capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and "\"merged\" instead" in done.stderr, (name, changes, done.stderr)
    assert not list((out / "gguf").iterdir())


def check_all(tool):
    for name in NAMES:
        with tempfile.TemporaryDirectory() as out:
            check(tool, name, pathlib.Path(out))
    for name, changes, message in REFUSED:
        with tempfile.TemporaryDirectory() as out:
            check_refused(tool, name, changes, message, pathlib.Path(out))
