#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokeniser throughput: Quire beside Hugging Face tokenizers, interleaved, one core each.

    pip install tokenizers
    tests/bench/text.py --bench build/release/tests/bench_text --model tokenizer.json --text wiki.test.raw

Prints the median of the rounds: milliseconds to load, megabytes a second to encode (the first text
after opening, and again) and to decode. Ids of both must be equal. The peer encodes the text in one
call without truncation; TOKENIZERS_PARALLELISM is off, as one text is one core's work for both.
"""
import argparse
import gzip
import json
import os
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def ours(args, model):
    out = subprocess.run([args.bench, model, args.text, "1"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def theirs(model, text):
    from tokenizers import Tokenizer
    a = time.perf_counter()
    tok = Tokenizer.from_file(model)
    b = time.perf_counter()
    tok.no_truncation()
    mb = len(text.encode()) / 1e6
    first = time.perf_counter()
    ids = tok.encode(text, add_special_tokens=False).ids
    again = time.perf_counter()
    fast = tok.encode_batch_fast([text], add_special_tokens=False)[0].ids
    end = time.perf_counter()
    tok.decode(ids)
    done = time.perf_counter()
    assert fast == ids
    return {"open_ms": (b - a) * 1e3, "first_mb_s": mb / (again - first), "encode_mb_s": mb / (end - again),
            "decode_mb_s": mb / (done - end), "tokens": len(ids)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench", default="build/release/tests/bench_text")
    p.add_argument("--model", required=True, help="tokenizer.json, also .gz")
    p.add_argument("--text", required=True)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    text = open(args.text, encoding="utf-8", newline="").read()
    model = args.model
    with tempfile.TemporaryDirectory() as tmp:
        if model.endswith(".gz"):
            model = os.path.join(tmp, "tokenizer.json")
            with open(model, "wb") as f:
                f.write(gzip.open(args.model).read())
        a, b = [], []
        for _ in range(args.rounds):
            a.append(ours(args, model))
            b.append(theirs(model, text))
    if a[0]["tokens"] != b[0]["tokens"]:
        raise SystemExit(f"token counts differ: {a[0]['tokens']} and {b[0]['tokens']}")
    print(f"{'':12} {'quire':>10} {'tokenizers':>10}")
    for key in ("open_ms", "first_mb_s", "encode_mb_s", "decode_mb_s", "tokens"):
        print(f"{key:12} {statistics.median(x[key] for x in a):10.1f} {statistics.median(x[key] for x in b):10.1f}")


if __name__ == "__main__":
    main()
