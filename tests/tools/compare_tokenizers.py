#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quire's tokenisers beside the packages that define them, on texts nobody has stored.

    pip install tokenizers sentencepiece
    tests/tools/compare_tokenizers.py [--data ../shared/data] [--count 2000] [--seed N] [NAME...]

Every tokenizer.json and SentencePiece model at hand: tests/data/tokenizers, and of the data folder (or
QUIRE_TEST_DATA) the vocabularies and the folders with a tokenizer.json. Compared are the ids of a text with
and without what goes around it, and the text that the ids decode to with and without special tokens. Texts:
random characters of all blocks, of one script, runs of whitespace, random bytes, words, wiki.test.raw.
NAME: only those whose name contains it. The exit status is 1 where anything differs but for:

- The age of Unicode's tables. `tokenizers` mixes several (Bert's punctuation is Unicode 8, NFKC 13, letter
  case 16), Quire has that of utf8proc. A text counts as `age` when it is equal without the characters that
  were assigned or moved to another category after Unicode 3.2, which Python still knows.
- A text that begins with BOS gets no second one here (what goes around is not compared there).
- `tokenizers` panics where its Strip decoder takes more than a token has (that decoding is left out).
- SentencePiece's package leaves BOS and EOS to its caller (what goes around is not compared).
"""
import argparse
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RUST_BACKTRACE"] = "0"

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("QUIRE_TEST_DATA", ROOT.parent / "shared/data"))
WORDS = ("the quick brown fox jumps over lazy dogs I'm you're we've he'd she'll It's DON'T 12345 3.14 2024-05-06 "
         "a1b2 camelCase HTTPServer snake_case foo(bar)[0] <s> </s> <unk> [MASK] <x> <|im_end|> <|endoftext|> "
         "Привет мир Ελληνικά שלום مرحبا नमस्ते สวัสดี 日本語 中文字符 한국어 カタカナ café Zürich naïve İstanbul ǅ ß ﬁ ½ ² Ａ "
         "e\u0301 a\u0308 \u1100\u1161\u11a8 😀 👨\u200d👩\u200d👧 🇩🇪 ▁ Ġ ## @@ <0x41>").split()
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \t ", " \n", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028",
          "\u200b", "\ufeff", "\x0b", "\x0c", "\u1680", " " * 17]
BLOCKS = [(0x20, 0x7e), (0, 0x1f), (0x7f, 0xff), (0x100, 0x24f), (0x250, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff),
          (0xe00, 0xeff), (0x1000, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x9fff),
          (0xac00, 0xd7a3), (0xe000, 0xe0ff), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xffef), (0x10000, 0x107ff), (0x16fe0, 0x18aff),
          (0x1d000, 0x1dfff), (0x1e000, 0x1efff), (0x1f000, 0x1faff), (0x20000, 0x2a6df), (0xe0000, 0xe01ef)]


def character(r, blocks=BLOCKS):
    while True:
        cp = r.randint(*r.choice(blocks)) if r.random() < 0.9 else r.randint(0, 0x10FFFF)
        if not 0xD800 <= cp <= 0xDFFF:
            return chr(cp)


def random_text(r):
    kind = r.randrange(6)
    n = r.choice([1, 2, 3, 5, 8, 13, 30])
    if kind == 0:
        return "".join(character(r) for _ in range(n))
    if kind == 1:  # one script
        block = [r.choice(BLOCKS)]
        return "".join(character(r, block) if r.random() < 0.8 else r.choice(SPACES) for _ in range(n))
    if kind == 2:
        return "".join(r.choice(SPACES) if r.random() < 0.6 else r.choice("aZ1.é中\u0301") for _ in range(n))
    if kind == 3:
        return r.randbytes(2 * n).decode("utf-8" if r.random() < 0.5 else "latin-1", errors="replace")
    return "".join((r.choice(WORDS) if r.random() < 0.8 else character(r)) + r.choice(["", "", " ", " ", r.choice(SPACES)])
                   for _ in range(n))


def texts(args):
    r = random.Random(args.seed)
    out = ["", " ", "  ", "\n"] + [random_text(r) for _ in range(args.count)]
    wiki = args.data / "text/wiki.test.raw"
    if wiki.exists():
        text = wiki.read_text(encoding="utf-8")
        lines = text.split("\n")
        out += [" \n".join(lines[i:i + 3]) for i in range(0, len(lines), max(1, 3 * len(lines) // args.count))]
        out.append(text[:min(200_000, 1000 * args.count)])
    return out


def quire(args, command, model, requests):
    lines = "".join(json.dumps(x) + "\n" for x in requests)
    out = subprocess.run([args.quire, command, "--model", model, "--jsonl"], input=lines, capture_output=True, text=True, encoding="utf-8")
    if out.returncode:
        raise SystemExit(f"{model}: {out.stderr}")
    return [json.loads(x) for x in out.stdout.split("\n") if x]


class HuggingFace:
    special = True

    def __init__(self, path=None, tok=None):
        from tokenizers import Tokenizer
        self.tok = tok or Tokenizer.from_file(str(path))
        self.tok.no_truncation()
        self.tok.no_padding()

    def ids(self, text, around):
        return self.tok.encode(text, add_special_tokens=around).ids

    def text(self, ids, special):
        return self.tok.decode(ids, skip_special_tokens=not special)

    def starts_with_bos(self, text):
        head = self.tok.encode("", add_special_tokens=True).ids
        return bool(head) and text.startswith(self.tok.id_to_token(head[0]))


class SentencePiece:
    special = False  # control tokens have no text there

    def __init__(self, path):
        import sentencepiece
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def ids(self, text, around):
        return self.sp.encode(text)

    def text(self, ids, special):
        return self.sp.decode(ids)

    def starts_with_bos(self, text):
        return True


def llama3(folder):
    """Llama 3's byte-level BPE from its two files; ours is a GGUF of the same."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    merges = [tuple(x.split(" ")) for x in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n") if " " in x and not x.startswith("#version")]
    tok = Tokenizer(models.BPE(json.loads((folder / "encoder.json").read_text()), merges, ignore_merges=True))
    regex = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    return HuggingFace(tok=tok)


def made(_, tmp):
    """(name, path for quire, what makes the package's of it) of small trained ones"""
    for path in sorted((ROOT / "tests/data/tokenizers").glob("*")):
        if path.suffix == ".model":
            yield path.name, path, lambda p: SentencePiece(p)
        elif path.suffix == ".json" and not path.name.endswith(".cases.json"):
            plain = tmp / path.name
            plain.write_text(json.dumps(json.loads(path.read_text())["tokenizer"]))
            yield path.name, plain, lambda p: HuggingFace(p)


def found(args, tmp):
    """The same of the data folder."""
    for path in sorted(args.data.glob("oracle/arch/*/hf/tokenizer.json")):
        yield path.parts[-3], path, lambda p: HuggingFace(p)
    for path in sorted(args.data.glob("vocabs/*/tokenizer.json.gz")):
        plain = tmp / f"{path.parts[-2]}.json"
        plain.write_bytes(gzip.open(path).read())
        yield path.parts[-2], plain, lambda p: HuggingFace(p)
    folder = args.data / "vocabs/llama3.2"
    if folder.is_dir():
        out = tmp / "llama3.gguf"
        subprocess.run([sys.executable, ROOT / "tests/tools/make_vocab_gguf.py", "encoder", folder, out, "llama-bpe"], check=True)
        yield "llama3.2", out, lambda p: llama3(folder)
    for path in sorted(args.data.glob("vocabs/*/*.model*")):
        yield path.name, path, lambda p: SentencePiece(p)


def is_settled(c):
    return unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c) != "Cn"


def encode(args, path, theirs, sample):
    requests = [{"text": t, "add_special": a, "parse_special": theirs.special} for t in sample for a in (False, True)]
    ids = [x.get("ids", x) for x in quire(args, "tokenize", path, requests)]
    return zip(sample, ids[::2], ids[1::2], strict=True)


def compare(args, path, theirs):
    return compare_texts(args, path, theirs, texts(args))


def compare_texts(args, path, theirs, sample):
    """How many texts were compared, how many differ by the age of tables, and what else differs: (what, text, ours, theirs)."""
    wrong, doubtful, back, count = [], [], [], 0
    for text, plain, around in encode(args, path, theirs, sample):
        ids = theirs.ids(text, False)
        count += 1
        if ids != plain:
            settled = "".join(filter(is_settled, text))
            if settled == text:
                wrong.append(("ids", text, plain, ids))
            else:
                doubtful.append(settled)
            continue
        if not theirs.starts_with_bos(text) and theirs.ids(text, True) != around:
            wrong.append(("around", text, around, theirs.ids(text, True)))
        for special in (False, True) if theirs.special else (False,):
            try:
                back.append((text, ids, special, theirs.text(ids, special)))
            except BaseException as e:
                if "Panic" not in type(e).__name__:
                    raise
    for text, plain, _ in encode(args, path, theirs, doubtful):
        if theirs.ids(text, False) != plain:
            wrong.append(("ids", text, plain, theirs.ids(text, False)))
    back = [x for x in back if x[3] is not None]
    got = quire(args, "detokenize", path, [{"ids": i, "special": s} for _, i, s, _ in back])
    for (text, _, special, want), x in zip(back, got, strict=True):
        if x.get("text", x) != want:
            wrong.append(("shown" if special else "decoded", text, x.get("text", x), want))
    return count, len(doubtful), wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", metavar="NAME")
    p.add_argument("--quire", default=ROOT / "build/release/quire")
    p.add_argument("--data", type=Path, default=DATA)
    p.add_argument("--count", type=int, default=2000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--show", type=int, default=3, help="differences to show for each")
    args = p.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        for name, path, package in itertools.chain(made(args, Path(tmp)), found(args, Path(tmp))):
            if args.names and not any(x in name for x in args.names):
                continue
            count, age, wrong = compare(args, path, package(path))
            bad += len(wrong)
            print(f"{name:44} {count:6} texts {age:4} age {len(wrong):4} differ", flush=True)
            for what, text, ours, theirs in wrong[:args.show]:
                print(f"    {what}: {text[:80]!r}\n      quire   {str(ours)[:200]!r}\n      package {str(theirs)[:200]!r}")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
