#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quire's Jinja beside Jinja2 in transformers' environment, on templates nobody has stored.

    pip install jinja2
    tests/tools/compare_templates.py [--count 3000] [--seed N] [--templates DIR...] [--each 60] [--quire PROGRAM]

Two kinds of cases. Made: random programs over the whole language (made_templates.py). Found: every
*.jinja of the given folders, with conversations of all kinds. Equal is the same text, or a failure on
both sides. `refused` counts what Quire leaves out on purpose and says so (REFUSED), `later` what it finds out when it
gets there (LATE); the exit status is 1 where anything else differs."""
import argparse
import collections
import copy
import datetime
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

sys.path.insert(0, str(Path(__file__).resolve().parent))
import made_templates  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("QUIRE_TEST_DATA", ROOT.parent / "shared/data"))
NOW = "2026-11-21T12:00:00"
# Integers have 64 bits; what a template may build and print is bounded.
REFUSED = re.compile("integer is too large|too large|too deep|too wide|is not supported|more than \\d+ (steps|bytes)|"
                     "out of range|too long|at most \\d+ items|complex number|attribute '(encode|translate)'")

# Unknown filters and tests fail when they are reached, not before.
LATE = re.compile("No (filter|test) named")


class Generation(jinja2.ext.Extension):
    """{% generation %}: its body, as in transformers without a mask of the assistant's tokens."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.filters["from_json"] = json.loads  # of some templates, not of transformers
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromisoformat(NOW).strftime(f)
    return env


@functools.lru_cache(maxsize=8)
def compiled(env, template):
    return env.from_string(template)


class TooLong(Exception):
    pass


def too_long(*_):
    raise TooLong


def reference(env, template, variables):
    """The text, or None where Jinja2 fails; TooLong after two seconds."""
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        text = compiled(env, template).render(**copy.deepcopy(variables))  # some filters change them
        text.encode()  # lone surrogates are no text
        return text, ""
    except TooLong:
        raise
    except Exception as e:  # whatever Python raises is a failure
        return None, f"{type(e).__name__}: {e}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def render(quire, cases):
    """What Quire gives for (template, variables) pairs: dicts with text or error."""
    lines = "".join(json.dumps({"id": i, "template": t, "extra": v}) + "\n" for i, (t, v) in enumerate(cases))
    env = dict(os.environ, QUIRE_FIXED_TIME=NOW)
    run = subprocess.run([quire, "template", "--jsonl"], input=lines.encode(), capture_output=True, env=env, timeout=600)
    out = [json.loads(line) for line in run.stdout.decode().split("\n") if line]
    assert len(out) == len(cases), f"{len(out)} answers to {len(cases)} cases: {run.stderr.decode()[-500:]}"
    return out


ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def compare(quire, cases):
    """Counts by outcome, and a list of (template, variables, want, got) that differ."""
    env = environment()
    counts, wrong = collections.Counter(), []
    for (template, variables), got in zip(cases, render(quire, cases)):
        try:
            want, why = reference(env, template, variables)
        except (TooLong, RecursionError):
            counts["endless"] += 1
            continue
        if want is not None and ADDRESS.search(want):
            counts["addresses"] += 1
        elif want == got.get("text"):
            counts["equal" if want is not None else "both fail"] += 1
        elif want is None and LATE.search(why):
            counts["later"] += 1
        elif want is not None and "error" in got and REFUSED.search(got["error"]):
            counts["refused"] += 1
        else:
            counts["wrong"] += 1
            wrong.append((template, variables, want if want is not None else f"! {why}", got.get("text", f"! {got.get('error')}")))
    return counts, wrong


def found(folders, seed, each):
    """`each` random conversations for every template."""
    r, chats = random.Random(seed), list(made_templates.conversations())
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.jinja")):
            text = path.read_text(encoding="utf-8")
            for name, variables in r.sample(chats, min(each, len(chats))):
                yield f"{path.name} {name}", text, variables


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quire", default=str(ROOT / "build/release/quire"))
    p.add_argument("--count", type=int, default=3000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--each", type=int, default=60, help="conversations for each template")
    p.add_argument("--templates", nargs="*", default=[])
    p.add_argument("--show", type=int, default=20)
    args = p.parse_args()
    bad = 0
    cases = list(made_templates.programs(args.seed, args.count))
    counts, wrong = compare(args.quire, cases)
    print("made:", dict(counts))
    for template, _, want, got in wrong[:args.show]:
        print(f"---\n{template}\n  want {want!r}\n  got  {got!r}")
    bad += len(wrong)
    if args.templates:
        named = list(found(args.templates, args.seed, args.each))
        counts, wrong = compare(args.quire, [(t, v) for _, t, v in named])
        names = {(t, json.dumps(v)): n for n, t, v in named}
        print("found:", dict(counts))
        for template, variables, want, got in wrong[:args.show]:
            print(f"--- {names[template, json.dumps(variables)]}\n  want {want[-300:]!r}\n  got  {got[-300:]!r}")
        bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
