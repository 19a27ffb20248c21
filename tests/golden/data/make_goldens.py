"""What TRL and transformers make of rows and row lengths.

packing.json   the bins of trl.pack_dataset (strategy "bfd") for random lengths
masks.json     for rows of the shared sample data (Apache-2.0 files only): the number of tokens, the
               number of trained ones and a hash of both. No text of the rows is stored.

Made with trl 1.16.0, transformers 5.23.0, tokenizers 0.23.3, datasets 5.2.0, gguf 0.19.0.
Usage: .deps/venv/bin/python tests/golden/data/make_goldens.py
"""

import hashlib
import json
import pathlib
import random

from datasets import Dataset
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl import pack_dataset
from trl.data_utils import common_prefix_length

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
SHARED = ROOT.parent / "shared/data/sft"
TEMPLATES = ROOT / "engine/text/templates"


def packed_bins(lengths, capacity):
    rows = Dataset.from_dict({"input_ids": [[i] * n for i, n in enumerate(lengths)]})
    packed = pack_dataset(rows, seq_length=capacity, strategy="bfd")
    bins = []
    for row in packed:
        ids, start = [], 0
        for length in row["seq_lengths"]:
            ids.append(row["input_ids"][start])
            start += length
        bins.append(ids)
    return bins


def packing():
    rng = random.Random(11)
    cases = []
    for rows, capacity, longest in [(1, 8, 8), (40, 16, 16), (200, 64, 40), (300, 1024, 1024), (1000, 512, 300)]:
        # A few long rows among many short ones, as in real files.
        lengths = [min(longest, 1 + int(rng.paretovariate(0.7) * longest / 20)) for _ in range(rows)]
        cases.append({"capacity": capacity, "lengths": lengths, "bins": packed_bins(lengths, capacity)})
    cases.append({"capacity": 10, "lengths": [5] * 9 + [10, 3, 3], "bins": packed_bins([5] * 9 + [10, 3, 3], 10)})
    return cases


def smollm2():
    read = AutoTokenizer.from_pretrained(ROOT / ".deps/models", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    # transformers knows no "smollm" pre-tokenizer; the model's own splits single digits first.
    backend = Tokenizer.from_str(read.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>",
                                   unk_token="<|endoftext|>", pad_token="<|im_end|>")


def summary(ids, mask):
    text = ",".join(map(str, ids)) + "|" + "".join(map(str, mask))
    return [len(ids), sum(mask), hashlib.sha256(text.encode()).hexdigest()[:16]]


def rows_of(name):
    return [json.loads(line) for line in (SHARED / name).open(encoding="utf-8")]


def decoded(messages):
    """Tool arguments as objects: what templates expect."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


def conversations(tokenizer, name, template):
    source = (TEMPLATES / template).read_text()
    out = []
    for row in rows_of(name):
        done = tokenizer.apply_chat_template(decoded(row["messages"]), tools=row.get("tools"), chat_template=source,
                                             tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        out.append(summary(done["input_ids"], done["assistant_masks"]))
    return {"file": name, "template": template, "rows": out}


def completions(tokenizer):
    """Rows of identity.jsonl as prompt/completion strings, the way SFTTrainer treats them."""
    out = []
    for row in rows_of("identity.jsonl"):
        prompt = row["messages"][0]["content"] + "\n"
        text = prompt + row["messages"][1]["content"] + tokenizer.eos_token
        prompt_ids, ids = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
        start = common_prefix_length(prompt_ids, ids)
        out.append(summary(ids, [0] * start + [1] * (len(ids) - start)))
    return out


def prompt_completion_messages(tokenizer, template):
    """Rows of chat.jsonl, the last answer as the completion, the way SFTTrainer treats them."""
    source = (TEMPLATES / template).read_text()
    out = []
    for row in rows_of("chat.jsonl"):
        render = lambda messages, **more: tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=True, return_dict=True, **more)["input_ids"]
        prompt_ids = render(row["messages"][:-1], add_generation_prompt=True)
        ids = render(row["messages"])
        start = common_prefix_length(prompt_ids, ids)
        out.append(summary(ids, [0] * start + [1] * (len(ids) - start)))
    return {"file": "chat.jsonl", "template": template, "rows": out}


def write(name, value):
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")).replace("}", "}\n") + "\n")


if __name__ == "__main__":
    write("packing.json", packing())
    tokenizer = smollm2()
    write("masks.json", {
        "conversations": [conversations(tokenizer, *case) for case in [
            ("chat.jsonl", "qwen2_5_training.jinja"), ("chat.jsonl", "llama3_training.jinja"),
            ("toolcall.jsonl", "qwen3_training.jinja"), ("toolcall_reasoning.jsonl", "qwen3_training.jinja")]],
        "completions": completions(tokenizer),
        "prompt_completion": prompt_completion_messages(tokenizer, "qwen2_5_training.jinja"),
    })
