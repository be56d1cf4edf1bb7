#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small tokenizer.json files that cover each component, with what the `tokenizers` package gives.

    pip install tokenizers sentencepiece
    tests/tools/make_tokenizers.py tests/data/tokenizers

Writes NAME.json: {"tokenizer": {...}, "cases": [{"text", "ids", "around", "text_back", "shown"}]}:
ids without and with what goes around a text, and the text that the first decode to without and
with special tokens. Writes NAME.model and NAME.cases.json for SentencePiece.
"""
import io
import json
import random
import sys
from pathlib import Path

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

TEXT = """The quick brown fox jumps over the lazy dog. Once upon a time, there was a café in Zürich;
it's where we'd meet, and they'll say: "naïve" isn't a crime! 12345 sheep (or 3.14 %) cost $9.99...
for (int i = 0; i < 10; i++) { sum += a[i]; }\tprintf("%d\\n", sum);
HTTPServer camelCase snake_case UPPER lower Title. don't won't I'm you're we've he'd she'll it's
Привет, мир! Как дела? Это тест. Ελληνικά γράμματα. שלום עולם. مرحبا بالعالم.
日本語のテキスト、カタカナ、ひらがな。 中文字符，混合 English 和数字123。 한국어 텍스트.
e\u0301 a\u0308 \ufb01 \u2460 \u00bd \u00b2 \uff21\uff22\uff23 \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467
the the the and and of of to to in in is is that that was for on are with as his they be at one
""".strip()
LINES = [x for x in TEXT.split("\n")] * 3

RND = random.Random(7)
BITS = ["the ", "The", " a", "'s", "'LL", "  ", "\n", "\r\n", "\t", " ", "12", "3", ".", "!?", "é", "e\u0301",
        "日本", "カ", "ひ", "한", "Ж", "ß", "İ", "ǅ", "\u00a0", "\u2003", "\u200d", "\u200b", "\ufb01", "\u2460",
        "½", "²", "Ａ", "😀", "👨\u200d👩", "\u0301", "_", "-", "/", "<s>", "[MASK]", "</s>", "word", "x", "▁",
        "Ġ", "\u3000", "\x07", "\u007f", "\ufeff", "[UNK]", "<x>", " <x> ", "ǆ", "Σ", "ς", "ı", "\u0130", "ﷺ",
        "\u1100\u1161\u11a8", "각", "\u0958", "\u2126", "\U0001d400", "~", "`", "^", "$", "+", "=", "a\u0308"]
RANGES = [(0x20, 0x7e), (0xa0, 0x17f), (0x180, 0x24f), (0x370, 0x3ff), (0x400, 0x45f), (0x5d0, 0x5ea), (0x620, 0x64a),
          (0x904, 0x939), (0xe01, 0xe30), (0x1e00, 0x1eff), (0x2010, 0x2046), (0x2190, 0x21ff), (0x3041, 0x3096),
          (0x30a1, 0x30fa), (0x4e00, 0x4fff), (0xac00, 0xad00), (0xff01, 0xff5e), (0x1f600, 0x1f64f), (0x300, 0x340)]


def random_text(r=RND):
    out = []
    for _ in range(r.randint(1, 14)):
        if r.random() < 0.6:
            out.append(r.choice(BITS))
        elif r.random() < 0.5:
            out.append(r.choice(TEXT.split()) + r.choice(["", " "]))
        else:
            lo, hi = r.choice(RANGES)
            out.append("".join(chr(r.randint(lo, hi)) for _ in range(r.randint(1, 3))))
    return "".join(out)


def bpe(norm=None, pre=None, dec=None, special=("<s>", "</s>", "<unk>"), size=420, byte=False, unk=None, **kw):
    tok = Tokenizer(models.BPE(unk_token=unk, **kw))
    if norm:
        tok.normalizer = norm
    if pre:
        tok.pre_tokenizer = pre
    if dec:
        tok.decoder = dec
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte else []
    args = {k: v for k, v in kw.items() if k in ("continuing_subword_prefix", "end_of_word_suffix")}
    tok.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), show_progress=False,
                                                       initial_alphabet=alphabet, **args))
    return tok


def words(model, trainer, norm=None, pre=None, dec=None):
    tok = Tokenizer(model)
    if norm:
        tok.normalizer = norm
    if pre:
        tok.pre_tokenizer = pre
    if dec:
        tok.decoder = dec
    tok.train_from_iterator(LINES, trainer)
    return tok


def edit(tok, fn):
    d = json.loads(tok.to_str())
    fn(d)
    return Tokenizer.from_str(json.dumps(d))


CT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
          r"\s++$|\s*[\r\n]|\s+(?!\S)|\s")
UP, LO = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?[{UP}]*[{LO}]+{CT}?|[^\r\n\p{{L}}\p{{N}}]?[{UP}]+[{LO}]*{CT}?|"
         rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + REST)
N, P, D = normalizers, pre_tokenizers, decoders


def split(regex, how="isolated", invert=False):
    return P.Split(Regex(regex), how, invert)


def byte_bpe(*steps, **kw):
    return bpe(pre=P.Sequence([*steps, P.ByteLevel(add_prefix_space=False, use_regex=False)]), dec=D.ByteLevel(), byte=True, **kw)


def all_tokenizers():
    yield "bytelevel", bpe(pre=P.ByteLevel(add_prefix_space=False), dec=D.ByteLevel(), byte=True)
    t = bpe(pre=P.ByteLevel(add_prefix_space=True), dec=D.ByteLevel(), byte=True)
    t.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    yield "roberta", t
    t = byte_bpe(split(LLAMA3))
    t.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])])
    yield "llama3", edit(t, lambda d: d["model"].update(ignore_merges=True))
    yield "qwen", byte_bpe(split(LLAMA3.replace("{1,3}", "")))
    yield "cl100k", byte_bpe(split(CL100K, "removed", True))
    yield "o200k", byte_bpe(split(O200K))
    yield "deepseek", byte_bpe(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + REST))
    yield "digits_right", byte_bpe(split(r"\d{1,3}(?=(?:\d{3})*\b)"), split(LLAMA3))
    yield "superbpe", byte_bpe(split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))"))
    yield "kimi", byte_bpe(split(
        rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UP}&&[^\p{{Han}}]]*[{LO}&&[^\p{{Han}}]]+{CT}?|"
        rf"[^\r\n\p{{L}}\p{{N}}]?[{UP}&&[^\p{{Han}}]]+[{LO}&&[^\p{{Han}}]]*{CT}?|"
        rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|" + REST))
    yield "starcoder", byte_bpe(P.Digits(individual_digits=True), split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"))
    yield "falcon", bpe(pre=P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(), split("[0-9][0-9][0-9]")]),
                        dec=D.ByteLevel(), byte=True)
    yield "norm_bytes", bpe(norm=N.Sequence([N.NFC(), N.ByteLevel()]), pre=split(r" ?\p{L}+|\S|\s+"), dec=D.ByteLevel(), byte=True)
    yield "clip", bpe(norm=N.Sequence([N.NFC(), N.Replace(Regex(r"\s+"), " "), N.Lowercase()]),
                      pre=P.Sequence([split(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "removed", True), P.ByteLevel(add_prefix_space=False)]),
                      dec=D.ByteLevel(), byte=True, end_of_word_suffix="</w>", unk="<unk>", size=520)
    sp = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    spd = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    hexes = [f"<0x{i:02X}>" for i in range(256)]

    def fallback(d):
        d["added_tokens"] = [a for a in d["added_tokens"] if not a["content"].startswith("<0x")]
        d["model"]["byte_fallback"] = True
    t = edit(bpe(norm=sp, dec=spd, special=["<s>", "</s>", "<unk>", *hexes], size=620, unk="<unk>", fuse_unk=True), fallback)
    t.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    yield "llama2", t

    def merges_old(d):
        fallback(d)
        d["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in d["model"]["merges"]]
    yield "gemma", edit(bpe(norm=N.Replace(" ", "▁"), pre=P.Split(" ", "merged_with_previous"),
                            dec=D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]),
                            special=["<s>", "</s>", "<unk>", *hexes], size=620, unk="<unk>", fuse_unk=True), merges_old)
    for scheme in ("first", "never", "always"):
        for cut in (True, False):
            yield f"metaspace_{scheme}_{'cut' if cut else 'whole'}", bpe(pre=P.Metaspace(prepend_scheme=scheme, split=cut),
                                                                        dec=D.Metaspace(prepend_scheme=scheme), unk="<unk>")
    yield "bpe_unk", bpe(pre=P.Whitespace(), dec=D.BPEDecoder("</w>"), end_of_word_suffix="</w>", unk="<unk>")
    yield "bpe_unk_fuse", bpe(pre=P.WhitespaceSplit(), dec=D.Sequence([D.Strip("a", 1, 1), D.Replace("e", "E")]), unk="<unk>", fuse_unk=True, size=200)
    yield "bpe_drop", bpe(pre=P.WhitespaceSplit(), size=150)
    yield "bpe_cont", bpe(pre=P.WhitespaceSplit(), dec=D.WordPiece("@@"), continuing_subword_prefix="@@", unk="<unk>")
    yield "no_decoder", bpe(pre=P.Whitespace(), unk="<unk>")
    for how in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        yield f"split_{how}", bpe(pre=P.Sequence([P.Split(Regex(r"[\p{P}\p{N}]"), how), P.Punctuation(how)]), unk="<unk>")
        yield f"split_{how}_invert", bpe(pre=P.Sequence([P.Split(Regex(r"\w+"), how, True), P.Split("e", how)]), unk="<unk>")
    yield "scripts", bpe(pre=P.Sequence([P.UnicodeScripts(), P.CharDelimiterSplit("."), P.Digits(individual_digits=False)]), unk="<unk>")
    bert = dict(unk_token="[UNK]")
    wpt = dict(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], vocab_size=420, show_progress=False)
    for name, kw in (("bert", {}), ("bert_cased", dict(lowercase=False)), ("bert_accents", dict(strip_accents=False, clean_text=False)),
                     ("bert_plain", dict(lowercase=False, strip_accents=True, handle_chinese_chars=False))):
        t = words(models.WordPiece(max_input_chars_per_word=20, **bert), trainers.WordPieceTrainer(**wpt), N.BertNormalizer(**kw), P.BertPreTokenizer(), D.WordPiece())
        t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        yield name, t
    yield "wordlevel", words(models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"], show_progress=False),
                             N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase(), N.Strip()]), P.Whitespace())
    yield "ctc", words(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>"], show_progress=False),
                       N.Sequence([N.NFKD(), N.Replace(" ", "|")]), P.Split(Regex("."), "isolated"), D.CTC(pad_token="<pad>"))
    uni = dict(vocab_size=330, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    t = words(models.Unigram(), trainers.UnigramTrainer(**uni), N.Sequence([N.Nmt(), N.NFKC(), N.Replace(Regex(" {2,}"), " ")]),
              P.Sequence([P.WhitespaceSplit(), P.Metaspace()]), D.Metaspace())
    t.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    yield "unigram", t
    t = words(models.Unigram(), trainers.UnigramTrainer(**uni), N.NFKC(), P.Metaspace(prepend_scheme="first"), D.Metaspace(prepend_scheme="first"))
    t.add_tokens([AddedToken("<x>", single_word=True, normalized=False), AddedToken("word", normalized=True, rstrip=True), AddedToken("Straße", normalized=True)])
    yield "added", t
    t = bpe(norm=N.Lowercase(), pre=P.ByteLevel(add_prefix_space=False), dec=D.ByteLevel(), byte=True)
    t.add_tokens([AddedToken("the", normalized=True), AddedToken("<x>", lstrip=True, rstrip=True, normalized=False), AddedToken("fox", single_word=True)])
    t.add_special_tokens([AddedToken("[mask]", lstrip=True, normalized=True)])
    yield "added_bytes", t
    charsmap = charsmap_of(*sp_models(unigram_only=True))
    d = json.loads(t.to_str())
    t = words(models.Unigram(), trainers.UnigramTrainer(**uni), None, P.Metaspace(), D.Metaspace())
    d = json.loads(t.to_str())
    import base64
    d["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    yield "precompiled", Tokenizer.from_str(json.dumps(d))

    # What random_tokenizers.py found.
    yield "word_class", bpe(norm=N.Replace(Regex(r"[^\s\w]+"), "_"), pre=P.Sequence([split(r"[\w]+|[[:punct:]]", "merged_with_previous"), split("[[:upper:]]+")]))

    def with_hexes(d):
        v = d["model"]["vocab"]
        v |= {h: len(v) + i for i, h in enumerate(hexes)}
        d["model"]["byte_fallback"] = True
    yield "bpe_suffix_bytes", edit(bpe(pre=P.Whitespace(), dec=D.BPEDecoder("</w>"), end_of_word_suffix="</w>"), with_hexes)
    yield "bpe_cont_bytes", edit(bpe(pre=P.WhitespaceSplit(), dec=D.ByteFallback(), continuing_subword_prefix="@@", unk="<unk>"), with_hexes)

    def some_hexes(d):
        with_hexes(d)
        d["model"]["vocab"] = {k: v for k, v in d["model"]["vocab"].items() if k not in hexes[0xC8::2]}
        d["model"]["merges"].append(d["model"]["merges"][3])
    yield "bpe_some_bytes", edit(bpe(pre=P.WhitespaceSplit(), dec=D.Fuse(), unk="<unk>", fuse_unk=True), some_hexes)
    t = words(models.Unigram(), trainers.UnigramTrainer(**uni), N.Strip(), P.Metaspace(prepend_scheme="first"), D.Metaspace(prepend_scheme="first"))
    t.add_tokens([AddedToken("é", single_word=True, lstrip=True), AddedToken("\n", normalized=False, rstrip=True), AddedToken("the", single_word=True)])
    t.add_special_tokens([AddedToken("a", single_word=True, normalized=False)])
    yield "added_in_model", t
    t = bpe(pre=P.WhitespaceSplit(), unk="<unk>", fuse_unk=True)
    t.add_tokens([AddedToken(" a", normalized=True), AddedToken("a", normalized=False, lstrip=True), AddedToken("  ", normalized=True, lstrip=True, rstrip=True)])
    yield "added_twice", t


# ---- SentencePiece ----

def sp_models(unigram_only=False):
    import sentencepiece as spm
    variants = [("sp_unigram", dict(model_type="unigram", normalization_rule_name="nmt_nfkc_cf"))]
    if not unigram_only:
        variants = [
            ("sp_unigram", dict(model_type="unigram", normalization_rule_name="nmt_nfkc")),
            ("sp_bpe", dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)),
            ("sp_bpe_unk", dict(model_type="bpe", normalization_rule_name="identity", user_defined_symbols=["<x>", "fox"])),
            ("sp_plain", dict(model_type="unigram", normalization_rule_name="identity", add_dummy_prefix=False, byte_fallback=True)),
            ("sp_suffix", dict(model_type="unigram", normalization_rule_name="identity", treat_whitespace_as_suffix=True)),
        ]
    out = []
    for name, kw in variants:
        f = io.BytesIO()
        size = 560 if kw.get("byte_fallback") else 300
        spm.SentencePieceTrainer.train(sentence_iterator=iter(LINES), model_writer=f, vocab_size=size, hard_vocab_limit=False,
                                       character_coverage=0.98, minloglevel=2, num_threads=1, **kw)
        out.append((name, f.getvalue()))
    return out


def charsmap_of(entry):
    """Field 2 of field 3 of the message."""
    data = entry[1]

    def fields(b):
        i = 0
        while i < len(b):
            key, n, s = 0, 0, 0
            while True:
                c = b[i]; i += 1; key |= (c & 127) << s; s += 7
                if c < 128: break
            if key & 7 == 2:
                s = 0
                while True:
                    c = b[i]; i += 1; n |= (c & 127) << s; s += 7
                    if c < 128: break
                yield key >> 3, b[i:i + n]
                i += n
            elif key & 7 == 0:
                while b[i] & 128: i += 1
                i += 1
            elif key & 7 == 5:
                i += 4
            else:
                i += 8
    return dict(fields(dict(fields(data))[3]))[2]


def cases(tok, count):
    out = []
    while len(out) < count:
        text = random_text()
        if text.startswith("<s>"):  # BOS is not doubled here, as the package would
            continue
        ids = tok.encode(text, add_special_tokens=False).ids
        try:
            out.append({"text": text, "ids": ids, "around": tok.encode(text).ids,
                        "text_back": tok.decode(ids), "shown": tok.decode(ids, skip_special_tokens=False)})
        except BaseException as e:  # the package's Strip panics on a token that is all content
            if "Panic" not in type(e).__name__:
                raise
    return out


def main():
    import sentencepiece as spm
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, tok in all_tokenizers():
        tree = json.loads(tok.to_str())
        data = {"tokenizer": tree, "cases": cases(tok, 40)}
        (folder / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
    for name, blob in sp_models():
        (folder / f"{name}.model").write_bytes(blob)
        sp = spm.SentencePieceProcessor(model_proto=blob)
        out = []
        for _ in range(60):
            text = random_text()
            ids = sp.encode(text)
            out.append({"text": text, "ids": ids, "text_back": sp.decode(ids)})
        (folder / f"{name}.cases.json").write_text(json.dumps({"cases": out}, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
