#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokenizer.json files nobody wrote: random components in random order, beside the `tokenizers` package.

    pip install tokenizers sentencepiece
    tests/tools/random_tokenizers.py [--count 500] [--seed N] [--texts 12] [--keep FOLDER]

Every model (BPE of characters and of bytes, Unigram, WordPiece, WordLevel) with random options, added tokens,
normalisers, pre-tokenisers, post-processors and decoders, alone and in sequences. Quire gives the package's ids
and texts, or refuses to load the file and says what it does not support. What the package itself refuses is left
out. See compare_tokenizers.py for what counts as equal. The exit status is 1 where anything else differs. Not made are

- Control tokens like <s> with single_word or normalized: there the model gives one where no control token is
  found, here it never does.
- Added tokens whose id is not that of their text in the vocabulary, or the next one: the package gives them others.
- Texts that begin with a character of which a normaliser makes several pieces where Metaspace marks the first: the
  package marks all of them.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import compare_tokenizers as ct  # noqa: E402
import make_tokenizers as mk  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402

HEXES = [f"<0x{i:02X}>" for i in range(256)]
HOWS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
REGEXES = [r"\s+", r"\p{L}+", r"[0-9]", r"\p{P}", r"\d{1,3}", r"(?i:'s|'t)| ?\p{L}+|\s+(?!\S)|\s+", r"[^\s\w]+", r".", r"(?=[A-Z])",
           r"a|an|the", r"\bt\w*", mk.LLAMA3, mk.O200K, r"e+", r"(?<=\d)\D", r"$|^"]
STRINGS = [" ", "e", "the", "▁", "  ", "é", ".", "\n", "'"]


def base_models():
    """One trained model of each kind, as JSON trees."""
    bpe = dict(vocab_size=340, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    out = {}

    def train(name, model, trainer, norm=None, pre=None):
        tok = Tokenizer(model)
        if norm:
            tok.normalizer = norm
        if pre:
            tok.pre_tokenizer = pre
        tok.train_from_iterator(mk.LINES, trainer)
        out[name] = json.loads(tok.to_str())["model"]
    train("bpe", models.BPE(), trainers.BpeTrainer(**bpe), pre=pre_tokenizers.Split(" ", "merged_with_next"))
    train("bpe_meta", models.BPE(), trainers.BpeTrainer(**bpe), norm=normalizers.Replace(" ", "▁"))
    train("bpe_suffix", models.BPE(end_of_word_suffix="</w>"), trainers.BpeTrainer(end_of_word_suffix="</w>", **bpe), pre=pre_tokenizers.Whitespace())
    train("bpe_prefix", models.BPE(continuing_subword_prefix="@@"), trainers.BpeTrainer(continuing_subword_prefix="@@", **bpe),
          pre=pre_tokenizers.WhitespaceSplit())
    train("bpe_bytes", models.BPE(), trainers.BpeTrainer(**dict(bpe, vocab_size=420), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
          pre=pre_tokenizers.ByteLevel(add_prefix_space=False))
    train("unigram", models.Unigram(), trainers.UnigramTrainer(vocab_size=250, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False),
          pre=pre_tokenizers.Metaspace())
    train("wordpiece", models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(**bpe), pre=pre_tokenizers.BertPreTokenizer())
    train("wordlevel", models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
          pre=pre_tokenizers.Whitespace())
    return out


def pattern(r):
    return {"Regex": r.choice(REGEXES)} if r.random() < 0.6 else {"String": r.choice(STRINGS)}


def metaspace(r):
    return {"type": "Metaspace", "replacement": r.choice("▁▁▁_"), "prepend_scheme": r.choice(["first", "never", "always"]), "split": r.random() < 0.5}


def normalizer(r):
    kind = r.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Replace", "Replace", "Prepend", "Strip", "BertNormalizer", "ByteLevel"])
    v = {"type": kind}
    if kind == "Replace":
        v |= {"pattern": pattern(r), "content": r.choice(["", "▁", " ", "x", "é", "ab"])}
    elif kind == "Prepend":
        v["prepend"] = r.choice(["▁", " ", "ab", "É"])
    elif kind == "Strip":
        v |= {"strip_left": r.random() < 0.5, "strip_right": r.random() < 0.5}
    elif kind == "BertNormalizer":
        v |= {k: r.random() < 0.5 for k in ("clean_text", "handle_chinese_chars", "lowercase")}
        v["strip_accents"] = r.choice([True, False, None])
    return v


def pre_tokenizer(r):
    kind = r.choice(["Split", "Split", "Split", "ByteLevel", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace", "Metaspace", "Punctuation",
                     "Digits", "UnicodeScripts", "CharDelimiterSplit"] + ["FixedLength"] * (r.random() < 0.05))
    v = {"type": kind}
    if kind == "Split":
        v |= {"pattern": pattern(r), "behavior": r.choice(HOWS), "invert": r.random() < 0.3}
    elif kind == "ByteLevel":
        v |= {"add_prefix_space": r.random() < 0.5, "trim_offsets": True, "use_regex": r.random() < 0.5}
    elif kind == "Metaspace":
        v = metaspace(r)
    elif kind == "Punctuation":
        v["behavior"] = r.choice(HOWS)
    elif kind == "Digits":
        v["individual_digits"] = r.random() < 0.5
    elif kind == "CharDelimiterSplit":
        v["delimiter"] = r.choice(" e.▁é")
    elif kind == "FixedLength":
        v["length"] = r.choice([1, 3, 8])
    return v


def template(r):
    def parts(pair):
        out = [{"SpecialToken": {"id": r.choice(["<s>", "</s>"]), "type_id": 0}} for _ in range(r.randint(0, 2))]
        out.append({"Sequence": {"id": "A", "type_id": 0}})
        out += [{"Sequence": {"id": "B", "type_id": 1}}] if pair else []
        return out + [{"SpecialToken": {"id": r.choice(["<s>", "</s>"]), "type_id": 0}} for _ in range(r.randint(0, 2))]
    return {"type": "TemplateProcessing", "single": parts(False), "pair": parts(True),
            "special_tokens": {s: {"id": s, "ids": [i] if r.random() < 0.9 else [i, 0], "tokens": [s] if 1 else []} for s, i in (("<s>", 1), ("</s>", 2))}}


def post_processor(r):
    kind = r.choice(["TemplateProcessing", "RobertaProcessing", "BertProcessing", "ByteLevel"])
    if kind == "TemplateProcessing":
        v = template(r)
        for s in v["special_tokens"].values():
            s["tokens"] = ["<s>"] * len(s["ids"])
        return v
    if kind == "ByteLevel":
        return {"type": kind, "add_prefix_space": r.random() < 0.5, "trim_offsets": r.random() < 0.5, "use_regex": True}
    v = {"type": kind, "sep": ["</s>", 2], "cls": ["<s>", 1]}
    if kind == "RobertaProcessing":
        v |= {"trim_offsets": r.random() < 0.5, "add_prefix_space": r.random() < 0.5}
    return v


def decoder(r):
    kind = r.choice(["ByteLevel", "WordPiece", "Metaspace", "BPEDecoder", "CTC", "ByteFallback", "Fuse", "Strip", "Replace", "Replace"])
    v = {"type": kind}
    if kind == "ByteLevel":
        v |= {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    elif kind == "WordPiece":
        v |= {"prefix": r.choice(["##", "@@", "e"]), "cleanup": r.random() < 0.5}
    elif kind == "Metaspace":
        v = metaspace(r)
    elif kind == "BPEDecoder":
        v["suffix"] = r.choice(["</w>", "e", "▁"])
    elif kind == "CTC":
        v |= {"pad_token": r.choice(["<s>", "e"]), "word_delimiter_token": r.choice(["▁", "t"]), "cleanup": r.random() < 0.5}
    elif kind == "Strip":
        v |= {"content": r.choice(" ▁e"), "start": r.randint(0, 2), "stop": r.randint(0, 1)}
    elif kind == "Replace":
        v |= {"pattern": pattern(r) if r.random() < 0.2 else {"String": r.choice(STRINGS)}, "content": r.choice(["", " ", "x", "ab"])}
    return v


def post_processors(r):
    """Two that add tokens are refused: not too often."""
    v = post_processor(r)
    if r.random() < 0.1:
        return some(r, post_processor, "post_processor", "processors")
    return r.choice([None, v, v, {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, v]}])


def some(r, one, kind, name):
    """None, one, or a sequence of up to four."""
    n = r.choice([0, 1, 1, 1, 2, 3, 4])
    if n == 0:
        return None
    return one(r) if n == 1 else {"type": "Sequence", name: [one(r) for _ in range(n)]}


def model(r, bases):
    m = json.loads(json.dumps(bases[r.choice(sorted(bases))]))
    if m["type"] == "BPE":
        m["ignore_merges"] = r.random() < 0.3
        m["unk_token"] = r.choice([None, "<unk>"])
        m["fuse_unk"] = r.random() < 0.5
        m["byte_fallback"] = r.random() < 0.3
        if r.random() < 0.2:
            m["merges"] = [" ".join(x) for x in m["merges"]] if not any(" " in s for x in m["merges"] for s in x) else m["merges"]
        if r.random() < 0.1:
            m["continuing_subword_prefix"] = r.choice(["", "##", "@@"])
        if r.random() < 0.1:
            m["end_of_word_suffix"] = r.choice(["", "</w>"])
        if r.random() < 0.1:
            m["dropout"] = r.choice([None, 0.0, 0.5])
        if r.random() < 0.1:  # one pair twice
            m["merges"].append(m["merges"][r.randrange(len(m["merges"]))])
    elif m["type"] == "Unigram":
        m["byte_fallback"] = r.random() < 0.4
    elif m["type"] == "WordPiece":
        m["max_input_chars_per_word"] = r.choice([100, 5, 1])
        if r.random() < 0.2:
            m["continuing_subword_prefix"] = r.choice(["", "@@"])
    if m.get("byte_fallback") and r.random() < 0.9:
        some_hex = HEXES if r.random() < 0.8 else HEXES[::2]
        if m["type"] == "Unigram":
            m["vocab"] += [[h, -9.5] for h in some_hex]
        else:
            m["vocab"] |= {h: len(m["vocab"]) + i for i, h in enumerate(some_hex)}
    return m


ADDED = ["the", "fox", "<x>", "<|im_end|>", "É", "word", "a", " a", "12", "▁", "fi", "İ", "Straße", "x y", "<mask>", "\n", "é", "日本"]


def added(r, m):
    """Every text has the id that it has in the vocabulary, or the next one: others are given new ids by the package."""
    ids = {x[0]: i for i, x in enumerate(m["vocab"])} if m["type"] == "Unigram" else m["vocab"]
    n = len(ids)
    out = [{"id": i, "content": s, "special": True} for i, s in enumerate(["<unk>", "<s>", "</s>"]) if r.random() < 0.9]
    for s in r.sample(ADDED, r.choice([0, 0, 1, 3, 6])):
        out.append({"id": ids.get(s, n), "content": s, "special": r.random() < 0.3})
        n += s not in ids
    for a in out:
        a |= {k: r.random() < 0.25 for k in ("single_word", "lstrip", "rstrip")}
        a["normalized"] = not a["special"] if r.random() < 0.8 else r.random() < 0.5
        if a["special"] and a["content"][0] == "<":
            a["single_word"] = a["normalized"] = False
    return sorted(out, key=lambda a: a["id"])


def configuration(r, bases):
    m = model(r, bases)
    tree = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(r, m),
            "normalizer": some(r, normalizer, "normalizer", "normalizers"),
            "pre_tokenizer": some(r, pre_tokenizer, "pre_tokenizer", "pretokenizers"),
            "post_processor": post_processors(r),
            "decoder": some(r, decoder, "decoder", "decoders"), "model": m}
    for v in (tree["pre_tokenizer"] or {}).get("pretokenizers", [])[1:]:
        if v["type"] == "Metaspace" and v["prepend_scheme"] == "first" and tree["normalizer"]:
            v["prepend_scheme"] = "always"
    return tree


def texts(r, count):
    out = []
    for _ in range(count):
        if r.random() < 0.6:
            out.append("".join(r.choice([*ADDED, *mk.BITS, *mk.TEXT.split()]) + r.choice(["", " ", " ", "  "]) for _ in range(r.randint(1, 12))))
        else:
            out.append(ct.random_text(r) if r.random() < 0.5 else mk.random_text(r))
    return out


class Skipped(Exception):
    pass


class Package(ct.HuggingFace):
    """Version 0.23 gives an added token's text in its normalised form, those before as it was: not compared."""

    def __init__(self, tree):
        super().__init__(tok=Tokenizer.from_str(json.dumps(tree, ensure_ascii=False)))
        norm = self.tok.normalizer
        texts = [norm.normalize_str(a["content"]) if norm and a["normalized"] else a["content"] for a in tree["added_tokens"]]
        if len(set(texts)) < len(texts) or "" in texts:  # the package takes any one of them, or one everywhere
            raise ValueError("two added tokens become one text, or one none")
        self.renamed = {a["id"] for a in tree["added_tokens"] if self.tok.id_to_token(a["id"]) != a["content"]}

    def text(self, ids, special):
        return None if self.renamed & set(ids) else super().text(ids, special)


def check(args, tree, sample, path):
    """None: equal; a text: refused by name; a list: what differs."""
    try:
        theirs = Package(tree)
    except BaseException as e:
        raise Skipped(str(e)) from None
    path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    first = subprocess.run([args.quire, "tokenize", "--model", path, "--jsonl"], input="", capture_output=True, text=True, encoding="utf-8")
    if first.returncode > 1 or first.returncode < 0:
        return [("died", "", first.returncode, first.stderr)]
    if first.returncode:
        return first.stderr.strip()
    try:
        return ct.compare_texts(args, path, theirs, sample)[2] or None
    except BaseException as e:
        if "Panic" not in type(e).__name__:
            raise
        raise Skipped("the package panics: " + str(e)) from None


def check_apart(args, tree, sample, path):
    """check() in a process of its own: the package aborts where it panics twice."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            got = ["ok", check(args, tree, sample, path)]
        except Skipped as e:
            got = ["skipped", str(e)]
        with os.fdopen(here, "w", encoding="utf-8") as f:
            json.dump(got, f)
        os._exit(0)
    os.close(here)
    with os.fdopen(there, encoding="utf-8") as f:
        text = f.read()
    os.waitpid(pid, 0)
    what, got = json.loads(text or '["skipped", "the package aborts"]')
    if what == "skipped":
        raise Skipped(got)
    return got


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quire", default=ct.ROOT / "build/release/quire")
    p.add_argument("--count", type=int, default=500)
    p.add_argument("--texts", type=int, default=12)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", type=Path, help="folder for the files that differ")
    args = p.parse_args()
    bases, refused, bad, skipped = base_models(), {}, 0, {}
    with tempfile.TemporaryDirectory() as tmp:
        for i in range(args.count):
            r = random.Random(f"{args.seed} {i}")
            tree = configuration(r, bases)
            try:
                got = check_apart(args, tree, texts(r, args.texts), Path(tmp) / "tokenizer.json")
            except Skipped as e:
                skipped[str(e)[:80]] = skipped.get(str(e)[:80], 0) + 1
                continue
            if isinstance(got, str):
                refused.setdefault(got, []).append(i)
            elif got:
                bad += 1
                if args.keep:
                    (args.keep / f"{args.seed}_{i}.json").write_text(json.dumps(tree, ensure_ascii=False))
                print(i, json.dumps({k: v for k, v in tree.items() if k not in ("model", "added_tokens")}, ensure_ascii=False),
                      {k: v for k, v in tree["model"].items() if k not in ("vocab", "merges")}, flush=True)
                for what, text, ours, theirs in got[:2]:
                    print(f"    {what}: {text[:100]!r}\n      quire   {str(ours)[:300]!r}\n      package {str(theirs)[:300]!r}")
    for why, n in sorted(skipped.items()):
        print(f"{n:5} left out: {why}")
    for why, which in sorted(refused.items()):
        print(f"{len(which):5} refused: {why}  (first {which[0]})")
    print(f"{args.count} files, {bad} differ, {sum(map(len, refused.values()))} refused, {sum(skipped.values())} left out")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
