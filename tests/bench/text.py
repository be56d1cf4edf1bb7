#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokeniser throughput: Quire beside Hugging Face tokenizers, interleaved, one core each.

    pip install tokenizers
    tests/bench/text.py --bench build/release/tests/bench_text --model tokenizer.json --text wiki.test.raw
    tests/bench/text.py --bench build/release/tests/bench_text --data ../shared/data [--rounds 1]

Prints the median of the rounds: milliseconds to load, megabytes a second to encode (the first text
after opening, and again) and to decode. Ids of both must be equal. The peer encodes the text in one
call without truncation; TOKENIZERS_PARALLELISM is off, as one text is one core's work for both.
With --data one line for each vocabulary of that folder and a row of encoding and decoding speeds; for the
GGUF files of which no tokenizer.json exists the peer's number is left out.
"""
import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def table(args):
    """Every vocabulary at hand on wiki.test.raw."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
    import compare_tokenizers as ct
    args.text = str(args.data / "text/wiki.test.raw")
    text = open(args.text, encoding="utf-8", newline="").read()
    mb = len(text.encode()) / 1e6
    print(f"{'':40} {'load ms':>8} {'encode MB/s':>12} {'decode MB/s':>12}   the package's")
    with tempfile.TemporaryDirectory() as tmp:
        known = [x for x in ct.found(args, Path(tmp)) if x[0] in ("qwen3", "llama3.2") or ".model" in x[0]]
        known += [(p.name, p, None) for p in sorted(args.data.glob("vocabs/gguf/*.gguf"))]
        for name, path, package in known:
            runs, peers = [], []
            for _ in range(args.rounds):
                runs.append(ours(args, path))
                if package:
                    tok = package(path)
                    a = time.perf_counter()
                    ids = tok.ids(text, False)
                    b = time.perf_counter()
                    tok.text(ids, False)
                    peers.append((mb / (b - a), mb / (time.perf_counter() - b)))
            row = [statistics.median(x[k] for x in runs) for k in ("open_ms", "encode_mb_s", "decode_mb_s")]
            peer = f"{statistics.median(x[0] for x in peers):8.1f} {statistics.median(x[1] for x in peers):8.1f}" if peers else ""
            print(f"{name:40} {row[0]:8.1f} {row[1]:12.1f} {row[2]:12.1f}   {peer}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench", default="build/release/tests/bench_text")
    p.add_argument("--model", help="tokenizer.json, also .gz")
    p.add_argument("--text")
    p.add_argument("--data", type=Path, help="folder with vocabs and text: a table of all")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    if args.data:
        return table(args)
    if not args.model or not args.text:
        p.error("--model and --text, or --data")
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
