"""Greedy answers of this engine and of transformers, token for token.

    generation_parity.py GENERATE_DUMP GGUF [--prompts 200] [--tokens 48] [--device cpu] [--batch 1] [--golden FILE]

transformers reads the same GGUF file (dequantized, float32) and decodes with its cache, each prompt alone or some
together, padded on the left; the engine decodes them together. Prints one line per difference with transformers' logits of both tokens, and the count.
--golden writes transformers' answers to FILE instead of comparing (tests/golden/parity/generation.json:
--prompts 4 --tokens 16).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SUBJECTS = ["the sea", "bread", "a bicycle", "gravity", "Vienna", "honey bees", "a good night's sleep", "prime numbers",
            "chess", "the moon", "rust", "winter", "a library", "music", "the number 7", "glass", "tea", "volcanoes",
            "friendship", "computers"]
QUESTIONS = ["What is {}?", "Write one sentence about {}.", "Give me three facts about {}.", "Why do people like {}?",
             "Explain {} to a child.", "Write a short poem about {}.", "List words that rhyme with or describe {}.",
             "Translate 'I am thinking about {}' into French.", "What would the world be without {}?",
             "Ask me a question about {}."]


def prompts(count):
    """Different lengths and endings: three of four as a chat, one of four as plain text."""
    all_of_them = [q.format(s) for q in QUESTIONS for s in SUBJECTS]
    return [all_of_them[i * 37 % len(all_of_them)] for i in range(count)]


def encode(tokenizer, texts):
    rows = []
    for i, text in enumerate(texts):
        if i % 4 == 3:
            rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
            continue
        chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                             tokenize=False)
        rows.append(tokenizer(chat, add_special_tokens=False)["input_ids"])
    return rows


def answers(model, rows, eos, args):
    out = []
    for first in range(0, len(rows), args.batch):
        some = rows[first:first + args.batch]
        longest = max(map(len, some))
        ids = torch.tensor([[eos[0]] * (longest - len(r)) + r for r in some], device=args.device)
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in some], device=args.device)
        with torch.inference_mode():
            got = model.generate(ids, attention_mask=mask, max_new_tokens=args.tokens, do_sample=False,
                                 eos_token_id=eos, pad_token_id=eos[0], use_cache=True)
        for row in got[:, longest:].tolist():
            out.append(row[:row.index(eos[0]) + 1] if eos[0] in row else row)
    return out


def differences(model, rows, ours, theirs, device):
    count = 0
    for i, (prompt, a, b) in enumerate(zip(rows, ours, theirs)):
        if a == b:
            continue
        count += 1
        at = next(t for t in range(max(len(a), len(b))) if a[t:t + 1] != b[t:t + 1])
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + b[:at]], device=device)).logits[0, -1]
        values = {t: float(logits[t]) for t in (a + [None])[at:at + 1] + (b + [None])[at:at + 1] if t is not None}
        print(f"prompt {i}, token {at}: logits of transformers {values}")
    return count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dump")
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--golden")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.gguf.parent, gguf_file=args.gguf.name, dtype=torch.float32)
    model = model.to(args.device)
    model.generation_config.repetition_penalty = 1.0
    tokenizer = AutoTokenizer.from_pretrained(args.gguf.parent, gguf_file=args.gguf.name)
    eos = [tokenizer.eos_token_id]
    rows = encode(tokenizer, prompts(args.prompts))
    theirs = answers(model, rows, eos, args)
    if args.golden:
        golden = {"max_new_tokens": args.tokens, "eos_ids": eos,
                  "rows": [{"prompt": p, "answer": a} for p, a in zip(rows, theirs)]}
        pathlib.Path(args.golden).write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        given, taken = pathlib.Path(folder, "in.json"), pathlib.Path(folder, "out.json")
        given.write_text(json.dumps({"prompts": rows, "eos_ids": eos, "max_new_tokens": args.tokens}))
        subprocess.run([args.dump, args.gguf, given, taken] + ["cuda"] * (args.device == "cuda"), check=True)
        ours = json.loads(taken.read_text())["answers"]
    bad = differences(model, rows, ours, theirs, args.device)
    total = sum(map(len, theirs))
    print(f"{len(rows) - bad} of {len(rows)} answers equal token for token, {total} tokens")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
