"""Token ids of the reference for awkward strings.

Writes smollm2.json (SmolLM2's vocabulary, read from the GGUF file by transformers) and, for each small
tokenizer trained here, NAME.tokenizer.json and NAME.json. Each golden is a list of
[text, ids, offsets in bytes, decoded text].
Made with tokenizers 0.23.3, transformers 5.23.0, gguf 0.19.0 (tests/requirements-*.txt).
Usage: .deps/venv/bin/python tests/golden/text/make_goldens.py
"""

import json
import pathlib
import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]


def strings():
    rng = random.Random(7)
    fixed = [
        "", " ", "  ", "\n", "\r\n", "\t\t", "a", " a", "a ", "Hello, world!", "don't we'll I'm THEY'RE it's",
        "1234567890", "1,234.5e-6", "3.14159 + 2 = 5.14159", "x = y**2 if z else [1,2]\n\treturn None",
        "Grüße aus Köln, naïve café", "e\u0301 vs \u00e9", "A\u030a\u0301", "\u1100\u1161\u11a8 각",
        "日本語のテキスト。", "中文字符，标点！", "русский текст", "العربية نص", "עברית", "हिन्दी पाठ", "ไทย",
        "🙂", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "a\u200db", "\ufeffbom", "\u00a0nbsp\u2003em\u3000ideographic",
        "line\u2028separator\u0085next", "tab\tand\x0bvertical\x0cform", "nul\x00byte", "\x7f\x80\x9f",
        "a" * 300, " " * 50, "ab" * 100, "\n" * 20, "…—“quotes”‘single’", "ﬁ ﬂ ½ ² Ⅷ ① ㎏", "İstanbul ß ẞ ſ",
        "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "<|im_start|", "text<|im_end|>text",
        " <|im_end|> ", "<s>[INST] x [/INST]</s>", "http://example.com/a?b=c&d=%20", "foo_bar-baz.qux",
        "CamelCaseAndSNAKE_CASE", "x" + "\u0301" * 30, "\U0001f469\U0001f3fd", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\u0e33 \u0f71\u0f72",
    ]
    alphabet = list("abcdefghij  \n\t'.,!?0123456789ABC<>|_-") + ["é", "ü", "日", "本", "🙂", "\u0301", "ß", "я", "\u00a0"]
    return fixed + ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60))) for _ in range(200)]


def golden(tokenizer, texts):
    rows = []
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        starts = [len(text[:i].encode()) for i in range(len(text) + 1)]
        offsets = [[starts[b], starts[e]] for b, e in encoding.offsets]
        rows.append([text, encoding.ids, offsets, tokenizer.decode(encoding.ids, skip_special_tokens=False)])
    return rows


def write(name, rows):
    path = HERE / f"{name}.json"
    path.write_text("[\n" + ",\n".join(json.dumps(r, ensure_ascii=True, separators=(",", ":")) for r in rows) + "\n]\n")
    print(path, path.stat().st_size)


CORPUS = ["the quick brown fox jumps over the lazy dog", "Grüße aus Köln", "don't stop 123 456", "日本語 テキスト",
          "a b c d e f g", "return x if y else z", "hello hello world world"] * 3


def trained(normalizer, pre, decoder, byte_level=False, fallback=False, post=None):
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=fallback))
    if normalizer is not None:
        t.normalizer = normalizer
    if pre is not None:
        t.pre_tokenizer = pre
    t.decoder = decoder
    special = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if fallback else [])
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420 if byte_level else 380, special_tokens=special,
                                                      initial_alphabet=alphabet, show_progress=False))
    if fallback:  # byte tokens are ordinary entries of the vocabulary, not added tokens
        d = json.loads(t.to_str())
        d["added_tokens"] = [a for a in d["added_tokens"] if not a["content"].startswith("<0x")]
        t = Tokenizer.from_str(json.dumps(d))
    t.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    t.add_tokens(["fox", "Köln"])
    if post is not None:
        t.post_processor = post
    return t


def main():
    texts = strings()
    from transformers import AutoTokenizer
    smol = AutoTokenizer.from_pretrained(ROOT / ".deps/models", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    # transformers knows no "smollm" pre-tokenizer; the model's own tokenizer.json splits digits first.
    description = json.loads(smol.backend_tokenizer.to_str())
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, description["pre_tokenizer"]]}
    reference = Tokenizer.from_str(json.dumps(description))
    write("smollm2", golden(reference, texts))
    split = pre_tokenizers.Split
    from tokenizers import Regex
    made = {
        "bytes_gpt2": trained(None, pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel(), True),
        "bytes_digits": trained(normalizers.NFC(), pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            decoders.ByteLevel(), True),
        "split_regex": trained(normalizers.NFKC(), pre_tokenizers.Sequence([
            split(Regex(r"\p{N}{1,3}"), "isolated"), split(Regex(r"\s+"), "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), decoders.ByteLevel(), True),
        "metaspace": trained(normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]),
                             pre_tokenizers.Metaspace(prepend_scheme="first"),
                             decoders.Metaspace(prepend_scheme="first")),
        "spm": trained(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None,
                       decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                          decoders.Strip(" ", 1, 0)]), fallback=True,
                       post=processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])),
        "punctuation": trained(normalizers.Strip(), pre_tokenizers.Sequence([
            pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous")]),
            decoders.Fuse()),
        "whitespace": trained(normalizers.NFKD(), pre_tokenizers.Whitespace(), decoders.Fuse()),
    }
    for name, tokenizer in made.items():
        (HERE / f"{name}.tokenizer.json").write_text(
            json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        write(name, golden(tokenizer, texts[:130]))


if __name__ == "__main__":
    main()
