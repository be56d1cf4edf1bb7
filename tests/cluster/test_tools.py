# SPDX-License-Identifier: Apache-2.0
"""The commands that show one part at a time, in the forms that scripts rely on."""
import json
import os
import subprocess

from quire_cluster import QUIRE, ROOT

STORY = str(ROOT / "share/models/story-Q8_0.gguf")


def run(tmp_path, *args, lines=None, env=None):
    text = None if lines is None else "".join(
        (x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    r = subprocess.run([str(QUIRE), *args], input=text, capture_output=True, text=True, timeout=60,
                       env=dict(os.environ, QUIRE_HOME=str(tmp_path), **(env or {})))
    return r


def answers(r):
    assert r.returncode == 0, r.stderr
    return [json.loads(line) for line in r.stdout.splitlines()]


def test_logits_are_the_same_whatever_chunks_and_threads(tmp_path):
    ask = [{"id": "a", "tokens": [0, 376, 377, 259, 360] * 9, "positions": "all", "n_greedy": 6},
           "not json", {"id": 2, "tokens": [99999]}]
    outs = [answers(run(tmp_path, "logits", "--model", STORY, "--jsonl", *extra, lines=ask))
            for extra in ([], ["--chunk", "1"], ["--chunk", "7", "--threads", "1"],
                          ["--threads", "2"])]
    good, broken, outside = outs[0]
    assert good["id"] == "a" and len(good["logits"]) == 45 and len(good["logits"][0]) == 1024
    assert len(good["greedy"]) == 6
    assert broken["id"] is None and broken["error"] and outside["id"] == 2 and outside["error"]
    assert all(o == outs[0] for o in outs[1:]), "chunks or threads changed a bit"


def test_bench_prints_what_was_measured(tmp_path):
    tests = "pp16,tg4,tg4@d32,b2,load"
    rows = answers(run(tmp_path, "bench", "--model", STORY, "--tests", tests, "--rounds", "2",
                       "--jsonl"))
    assert sorted((r["test"], r["round"]) for r in rows) == sorted(
        (t, n) for n in (1, 2) for t in tests.split(","))
    for r in rows:
        if r["test"] != "load":
            assert r["tokens_per_s"] > 0 and r["percent_of_limit"] > 0
    r = run(tmp_path, "bench", "--model", STORY, "--tests", "nonsense")
    assert r.returncode == 2 and "nonsense" in r.stderr


def test_tokenize_and_back(tmp_path):
    text = "Once upon a time <|endoftext|>"
    got = answers(run(tmp_path, "tokenize", "--model", STORY, "--jsonl", lines=[
        {"id": 1, "text": text}, {"id": 2, "text": text, "add_special": False,
                                  "parse_special": False}]))
    assert got[0]["ids"][:5] == [0, 376, 377, 259, 360] and got[0]["ids"][-1] == 0
    assert 0 not in got[1]["ids"]
    back = answers(run(tmp_path, "detokenize", "--model", STORY, "--jsonl", lines=[
        {"id": 3, "ids": got[1]["ids"]}, {"id": 4, "ids": [5000]}]))
    assert back[0] == {"id": 3, "text": text} and back[1]["error"]


def test_template_inspect_and_exit_codes(tmp_path):
    line = {"id": 7, "template": "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
            "messages": [{"role": "user", "content": "Hi"}], "tools": None,
            "add_generation_prompt": True, "bos_token": "", "eos_token": "", "extra": {}}
    raising = dict(line, id=8, template="{{ raise_exception('no') }}")
    got = answers(run(tmp_path, "template", "--jsonl", lines=[line, raising]))
    assert got[0] == {"id": 7, "text": "[user]Hi"}
    assert got[1]["raised"] is True and "no" in got[1]["error"]
    now = dict(line, template="{{ strftime_now('%Y-%m-%d %H') }}")
    got = answers(run(tmp_path, "template", "--jsonl", lines=[now],
                      env={"QUIRE_FIXED_TIME": "2026-11-21T12:00:00"}))
    assert got[0]["text"] == "2026-11-21 12"
    r = run(tmp_path, "inspect", STORY, "--json")
    assert r.returncode == 0 and json.loads(r.stdout)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(open(STORY, "rb").read()[:5000])
    r = run(tmp_path, "inspect", str(bad))
    assert r.returncode == 1 and "byte" in r.stderr and "Traceback" not in r.stderr
    for name in ("logits", "tokenize", "bench"):
        assert run(tmp_path, name, "--model", str(bad), "--jsonl", lines=[]).returncode == 1
        assert run(tmp_path, name, "--no-such-option").returncode == 2
