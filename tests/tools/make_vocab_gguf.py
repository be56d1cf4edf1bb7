#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a vocabulary-only GGUF from another tokeniser format.

    make_vocab_gguf.py encoder FOLDER OUT PRE   FOLDER has encoder.json and vocab.bpe
    make_vocab_gguf.py hf FOLDER OUT PRE        FOLDER has tokenizer.json.gz

Standard library only."""
import gzip
import json
import os
import struct
import sys

STRING, ARRAY, INT32, UINT32 = 8, 9, 5, 4
NORMAL, CONTROL, USER = 1, 3, 4


def string(s):
    b = s.encode("utf-8")
    return struct.pack("<Q", len(b)) + b


def key(name, kind, body):
    return string(name) + struct.pack("<I", kind) + body


def strings(items):
    return struct.pack("<IQ", STRING, len(items)) + b"".join(map(string, items))


def write(out, name, pre, tokens, types, merges):
    keys = [
        key("general.architecture", STRING, string("llama")),
        key("general.name", STRING, string(name)),
        key("tokenizer.ggml.model", STRING, string("gpt2")),
        key("tokenizer.ggml.pre", STRING, string(pre)),
        key("tokenizer.ggml.tokens", ARRAY, strings(tokens)),
        key("tokenizer.ggml.token_type", ARRAY,
            struct.pack("<IQ%di" % len(types), INT32, len(types), *types)),
        key("tokenizer.ggml.merges", ARRAY, strings(merges)),
    ]
    with open(out, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys))


def from_encoder(folder):
    with open(os.path.join(folder, "encoder.json"), encoding="utf-8") as f:
        vocab = json.load(f)
    with open(os.path.join(folder, "vocab.bpe"), encoding="utf-8") as f:
        merges = [line for line in f.read().split("\n") if line]
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda kv: kv[1])]
    return tokens, [NORMAL] * len(tokens), merges


def from_hf(folder):
    with gzip.open(os.path.join(folder, "tokenizer.json.gz"), "rt", encoding="utf-8") as f:
        data = json.load(f)
    by_id = {i: (t, NORMAL) for t, i in data["model"]["vocab"].items()}
    for added in data["added_tokens"]:
        by_id[added["id"]] = (added["content"], CONTROL if added["special"] else USER)
    assert sorted(by_id) == list(range(len(by_id)))
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    tokens, types = zip(*(by_id[i] for i in range(len(by_id))))
    return list(tokens), list(types), merges


def main():
    if len(sys.argv) != 5 or sys.argv[1] not in ("encoder", "hf"):
        sys.exit(__doc__)
    kind, folder, out, pre = sys.argv[1:]
    tokens, types, merges = from_encoder(folder) if kind == "encoder" else from_hf(folder)
    write(out, os.path.basename(os.path.normpath(folder)), pre, tokens, types, merges)


main()
