#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Constrained output: what is accepted, what it costs. Prints Markdown.

    tests/bench/constrained.py conformance --data DIR [--vocab FILE.gguf]
        MaskBench and JSON-Schema-Test-Suite 2020-12 (folders of --data) through `quire
        schema-check` and, where they are installed, the Python packages llguidance and xgrammar.
        With --vocab Quire goes through the token masks of that vocabulary and is timed.
    tests/bench/constrained.py masks --data DIR --vocab FILE.gguf [--bench PROGRAM]
        What the token masks of each MaskBench schema cost: along its valid instances, then also
        along random texts that its masks allow; the same of the GBNF grammars of --data. --bench:
        another build to compare with.
    tests/bench/constrained.py generate --model FILE.gguf --data DIR [--limit N]
        A model writes one text for each schema that compiles: greedy and sampled, alone and eight
        at once (--only greedy, --only "sampled, 8" and so on); the package jsonschema says whether
        they are valid. "made to end": max_tokens would have cut it.
    tests/bench/constrained.py rate --model FILE.gguf
        Tokens per second of 16 streams with and without a schema, in turn.

Build first: cmake --preset release && ninja -C build/release.
"""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(c) for c in row) + " |")
    print(flush=True)


def percentile(xs, p):
    return sorted(xs)[min(len(xs) - 1, int(len(xs) * p / 100))] if xs else float("nan")


# ---- cases: (id, schema, [(valid, instance)]) ---------------------------------------------------

def maskbench(data):
    with open(data / "json-schema/maskbench-dev.jsonl") as f:
        for i, line in enumerate(f):
            c = json.loads(line)
            yield (f"{i}:{c.get('source', '')}", c["schema"],
                   [(t["valid"], t["data"]) for t in c["tests"]])


def suite(data):
    for path in sorted((data / "json-schema/draft2020-12").glob("*.json")):
        for k, group in enumerate(json.loads(path.read_text())):
            yield (f"{path.stem}:{k} {group['description']}", group["schema"],
                   [(t["valid"], t["data"]) for t in group["tests"]])


# ---- engines: schema, texts -> (error or None, [accepted]) --------------------------------------

class Quire:
    name = "Quire"

    def __init__(self, vocab):
        from quire_cluster import QUIRE
        args = [str(QUIRE), "schema-check", "--jsonl"] + (["--model", vocab] if vocab else [])
        self.proc = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.mask_medians, self.mask_p99, self.compile_ms = [], [], []

    def check(self, schema, texts):
        self.proc.stdin.write(json.dumps({"id": 0, "schema": schema, "instances": texts}) + "\n")
        self.proc.stdin.flush()
        r = json.loads(self.proc.stdout.readline())
        if "compiled" not in r:  # the line itself was refused
            return r["error"], []
        self.compile_ms.append(r["compile_ms"])
        if "mask_us" in r:
            self.mask_medians.append(r["mask_us"]["median"])
            self.mask_p99.append(r["mask_us"]["p99"])
        return (None, r["accepted"]) if r["compiled"] else (r["error"], [])


class Llguidance:
    name = "llguidance"

    def __init__(self):
        import llguidance
        self.lib = llguidance
        self.tok = llguidance.LLTokenizer("byte")

    def check(self, schema, texts):
        try:
            grammar = self.lib.LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_flexible": True})
        except Exception as e:  # what a schema makes the package raise is a refusal
            return str(e), []
        out = []
        for text in texts:
            m = self.lib.LLMatcher(self.tok, grammar)
            if m.is_error():
                return m.get_error(), []
            tokens = self.tok.tokenize_str(text)
            out.append(m.try_consume_tokens(tokens) == len(tokens) and m.is_accepting())
        return None, out


class Xgrammar:
    name = "xgrammar"

    def __init__(self):
        import xgrammar
        self.lib = xgrammar
        vocab = [bytes([i]) for i in range(256)] + [b"</s>"]
        info = xgrammar.TokenizerInfo(vocab, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[256])
        self.compiler = xgrammar.GrammarCompiler(info)

    def check(self, schema, texts):
        try:
            g = self.compiler.compile_json_schema(json.dumps(schema), any_whitespace=True,
                                                  strict_mode=False)
        except Exception as e:
            return str(e), []
        out = []
        for text in texts:
            m = self.lib.GrammarMatcher(g)
            out.append(all(m.accept_token(b) for b in text.encode()) and m.accept_token(256))
        return None, out


def engines(vocab):
    yield Quire(vocab)
    for kind in (Llguidance, Xgrammar):
        try:
            yield kind()
        except ImportError as e:
            print(f"{kind.name} is not installed ({e}); left out\n", file=sys.stderr)


def judge(engine, cases):
    counts, misses = collections.Counter(), []
    for name, schema, tests in cases:
        error, got = engine.check(schema, [json.dumps(d, ensure_ascii=False) for _, d in tests])
        wrong_yes = sum(not valid and ok for (valid, _), ok in zip(tests, got))
        wrong_no = sum(valid and not ok for (valid, _), ok in zip(tests, got))
        kind = ("refused" if error else "accepts an invalid instance" if wrong_yes
                else "rejects a valid instance" if wrong_no else "pass")
        counts[kind] += 1
        if kind != "pass":
            cause = error.splitlines()[0][:160] if error else f"{wrong_yes} invalid accepted, " \
                f"{wrong_no} valid rejected"
            misses.append((name, kind, cause))
    return counts, misses


def conformance(args):
    kinds = ["pass", "refused", "rejects a valid instance", "accepts an invalid instance"]
    every = list(engines(args.vocab))
    for title, cases in (("MaskBench", list(maskbench(args.data))),
                         ("JSON-Schema-Test-Suite 2020-12", list(suite(args.data)))):
        rows, listed = [], []
        for engine in every:
            counts, misses = judge(engine, cases)
            rows.append([engine.name, *(counts[k] for k in kinds),
                         f"{100 * counts['pass'] / len(cases):.1f} %"])
            if engine.name == "Quire":
                listed = misses
        print(f"### {title}, {len(cases)} schemas\n")
        table(["", *kinds, "share"], rows)
        print("Quire's misses:\n")
        for name, kind, cause in listed:
            print(f"- {name}: {kind}: {cause}".replace("<", "\\<"))
        print()
    q = every[0]
    if q.mask_medians:
        table(["masks", "median of medians (us)", "worst median", "median p99", "worst p99",
               "compile p99 (ms)"],
              [[args.vocab.rsplit("/")[-1], f"{statistics.median(q.mask_medians):.0f}",
                f"{max(q.mask_medians):.0f}", f"{statistics.median(q.mask_p99):.0f}",
                f"{max(q.mask_p99):.0f}", f"{percentile(q.compile_ms, 99):.1f}"]])


# ---- a model under every schema -----------------------------------------------------------------

def with_model(args):
    from quire_cluster import Cluster
    home = tempfile.TemporaryDirectory()
    c = Cluster(home.name)
    c.start_all()
    c.launch(model_name="m", model_uid="m", model_path=args.model, model_format="ggufv2")
    return home, c


def write_one(c, schema, max_tokens, **sampling):
    prompt = "Write a short JSON document for this schema: " + json.dumps(schema)[:1500]
    r = c.post("/v1/chat/completions", {
        "model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens,
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        **sampling}, timeout=900)
    if r.status != 200:
        return "refused" if r.json["error"]["code"] == "invalid_json_schema" else "error", r.body
    choice = r.json["choices"][0]
    text = choice["message"]["content"]
    import jsonschema
    try:
        jsonschema.validators.validator_for(
            schema, default=jsonschema.Draft202012Validator)(schema).validate(json.loads(text))
        return ENDED[choice["finish_reason"]], text
    except json.JSONDecodeError as e:
        return ("no JSON" if choice["finish_reason"] == "stop" else "cut off"), f"{e}: {text}"
    except jsonschema.ValidationError as e:
        return "invalid", f"{str(e).splitlines()[0]}: {text}"
    except Exception as e:  # the validator itself could not
        return "unjudged", str(e)


def generate(args):
    cases = list(maskbench(args.data))[:args.limit]
    home, c = with_model(args)
    try:
        rows = []
        for title, sampling, at_once in (
                ("greedy, alone", {"temperature": 0}, 1),
                ("greedy, 8 at once", {"temperature": 0}, 8),
                ("sampled, alone", {"temperature": 1, "seed": 1}, 1),
                ("sampled, 8 at once", {"temperature": 1, "seed": 1}, 8)):
            if args.only and args.only not in title:
                continue
            start = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                got = list(pool.map(
                    lambda case: write_one(c, case[1], args.max_tokens, **sampling), cases))
            counts = collections.Counter(kind for kind, _ in got)
            rows.append([title, *(counts[k] for k in KINDS),
                         f"{time.monotonic() - start:.0f} s"])
            for (name, _, _), (kind, what) in zip(cases, got):
                if kind not in ENDED.values():
                    print(f"- {title}, {name}: {kind}: {str(what)[:args.show]}")
        print()
        table(["", *KINDS, "took"], rows)
    finally:
        c.kill()


ENDED = {"stop": "valid", "length": "valid, made to end"}
KINDS = [*ENDED.values(), "refused", "cut off", "no JSON", "invalid", "error", "unjudged"]


# ---- speed --------------------------------------------------------------------------------------

NEST = {"name": "Ada Lovelace", "age": 36, "tags": ["a", "first programmer"], "ok": True,
        "deep": {"list": [[1, 2.5, -3e10], [], {}], "none": None, "text": "é \" \n 日本語"}}
TEXTS = {
    "json": [json.dumps(NEST, ensure_ascii=False), json.dumps(NEST, indent=2),
             json.dumps([NEST] * 3)[1:-1].split("}, {")[0] + "}"],
    "json_arr": ["[\n" + json.dumps(NEST) + "]"],
    "arithmetic": ["a1 +22 *(b -c_long_name) /7 = 12\n(x +(y *(z -1))) = total\n"],
    "list": ["- bread and butter\n- 3 eggs, \"fresh\"\n- 日本茶\n- something longer to write\n"],
    "chess": ["1. e4 e5\n2. Nf3 Nc6\n3. Bb5 a6\n4. O-O Nf6\n5. Re1+ Bxf3\n10. e8=Q O-O-O\n"],
    "c": ["int main(){int x = 12;foo (a,  b);return  x*2+y;while(a<b){x = x+1;}//  a comment\n"
          "/* many words \n in lines */if(x==1){f ();}else{return  (  a+b );}}"],
    "english": ["The quick brown fox, 27 years old, jumps over the lazy dog.\nTwice!"],
    "japanese": ["日本語のテキスト、それは カタカナと漢字を\n含みます。"],
}


def grammar_cases(args, folder):
    """The GBNF grammars of --data as cases for bench_masks."""
    path = pathlib.Path(folder) / "grammars.jsonl"
    with open(path, "w") as f:
        for name, texts in TEXTS.items():
            gbnf = (args.data / "grammars" / f"{name}.gbnf").read_text()
            f.write(json.dumps({"source": name, "gbnf": gbnf, "tests": [
                {"valid": True, "data": t} for t in texts]}) + "\n")
    return str(path)


def grammar_masks(args, programs):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases = grammar_cases(args, folder)
        for build, program in programs.items():
            for texts, extra in (("texts", []), ("and random", ["--random", "60"])):
                r = subprocess.run([program, args.vocab, cases, *extra], check=True,
                                   capture_output=True, text=True)
                for line in r.stdout.splitlines():
                    s = json.loads(line)
                    rows.append([s["source"], build, texts, s["masks"],
                                 *(f"{s[k]:.0f}" for k in ("first_us", "median", "p99", "worst")),
                                 f"{s['compile_ms']:.1f}"])
    table(["grammar", "build", "along", "masks", "first (us)", "median (us)", "p99 (us)",
           "worst (us)", "compile (ms)"], sorted(rows))


def masks(args):
    from quire_cluster import QUIRE
    cases = str(args.data / "json-schema/maskbench-dev.jsonl")
    programs = {"this": str(QUIRE.parent / "tests/bench_masks")}
    if args.bench:
        programs = {"before": args.bench, **programs}
    rows = []
    for texts, extra in (("valid instances", []), ("and random texts", ["--random", "60"])):
        for build, program in programs.items():
            r = subprocess.run([program, args.vocab, cases, "--tight", *extra], check=True,
                               capture_output=True, text=True)
            got = [json.loads(line) for line in r.stdout.splitlines()]
            for kind in ("median", "p99", "worst"):
                us = [s[kind] for s in got]
                rows.append([texts, build, kind, f"{statistics.median(us):.0f}",
                             f"{percentile(us, 95):.0f}", f"{max(us):.0f}",
                             sum(x > 50 for x in us), sum(x > 1000 for x in us)])
            first = [s["first_us"] for s in got]
            rows.append([texts, build, "first mask", f"{statistics.median(first):.0f}",
                         f"{percentile(first, 95):.0f}", f"{max(first):.0f}",
                         sum(x > 50 for x in first), sum(x > 1000 for x in first)])
    table(["texts", "build", "of each schema", "middle (us)", "95 % (us)", "most (us)",
           "schemas over 50 us", "over 1 ms"], rows)
    grammar_masks(args, programs)


RATE_SCHEMA = {"type": "array", "minItems": 200, "items": {
    "type": "object", "required": ["id", "name", "tags", "price"],
    "properties": {"id": {"type": "integer"}, "name": {"type": "string", "maxLength": 40},
                   "tags": {"type": "array", "items": {"type": "string", "maxLength": 12},
                            "maxItems": 4},
                   "price": {"type": "number"}, "note": {"type": "string", "maxLength": 60}}}}


def streams(c, n, tokens, **extra):
    def one(i):
        r = c.post("/v1/completions", {"model": "m", "prompt": "A list of things:\n",
                                       "max_tokens": tokens, "temperature": 0.8, "seed": i,
                                       "ignore_eos": True, **extra}, timeout=300)
        assert r.status == 200, r.body
        return r.json["usage"]["completion_tokens"]
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        done = sum(pool.map(one, range(n)))
    return done / (time.monotonic() - start)


def rate(args):
    home, c = with_model(args)
    schema = {"response_format": {"type": "json_schema", "json_schema": {"schema": RATE_SCHEMA}}}
    try:
        streams(c, 16, 8, **schema)
        free, bound = [], []
        for _ in range(args.rounds):
            free.append(streams(c, 16, args.tokens))
            bound.append(streams(c, 16, args.tokens, **schema))
        table(["16 streams", "tokens per second (median)", "rounds"],
              [["free", f"{statistics.median(free):.0f}", " ".join(f"{x:.0f}" for x in free)],
               ["under a schema", f"{statistics.median(bound):.0f}",
                " ".join(f"{x:.0f}" for x in bound)],
               ["ratio", f"{statistics.median(bound) / statistics.median(free):.2f}", ""]])
    finally:
        c.kill()


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["conformance", "generate", "masks", "rate"])
    p.add_argument("--data", type=pathlib.Path)
    p.add_argument("--vocab")
    p.add_argument("--model")
    p.add_argument("--bench")
    p.add_argument("--limit", type=int)
    p.add_argument("--only", default="")
    p.add_argument("--show", type=int, default=200)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--max-tokens", type=int, default=256)
    p.add_argument("--tokens", type=int, default=64)
    args = p.parse_args()
    {"conformance": conformance, "generate": generate, "masks": masks,
     "rate": rate}[args.what](args)


if __name__ == "__main__":
    main()
