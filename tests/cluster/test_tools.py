# SPDX-License-Identifier: Apache-2.0
"""The commands that show one part at a time, in the forms that scripts rely on."""
import json
import math
import os
import pathlib
import subprocess
import time

import pytest

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


def test_an_8_bit_cache_is_another_but_near(tmp_path):
    ask = [{"id": 1, "tokens": [0, 376, 377, 259, 360] * 9, "positions": "last", "n_greedy": 6}]
    f16, q8, q8_split = (answers(run(tmp_path, "logits", "--model", STORY, "--jsonl", *extra,
                                     lines=ask))[0]
                         for extra in ([], ["--kv", "q8_0"], ["--kv", "q8_0", "--chunk", "4"]))
    assert q8 == q8_split
    worst = max(abs(a - b) for a, b in zip(f16["logits"], q8["logits"]))
    assert 0 < worst < 0.01 * (max(f16["logits"]) - min(f16["logits"]))
    r = run(tmp_path, "logits", "--model", STORY, "--kv", "q5", lines=ask)
    assert r.returncode == 2 and "q8_0" in r.stderr


def test_bench_prints_what_was_measured(tmp_path):
    tests = "pp16,tg4,tg4@d32,b2,load"
    rows = answers(run(tmp_path, "bench", "--model", STORY, "--tests", tests, "--rounds", "2",
                       "--jsonl"))
    assert sorted((r["test"], r["round"]) for r in rows) == sorted(
        (t, n) for n in (1, 2) for t in tests.split(","))
    for r in rows:
        assert (r["test"] == "load") == ("tokens_per_s" not in r)
        assert r.get("tokens_per_s", 1) > 0 and r["seconds"] > 0
        assert r["read_gb_s"] > 0 and r["percent_of_limit"] > 0
        assert r["limit_read_gb_s"] > 0 and r["limit_int8_gop_s"] > 0
        assert r["limit_f32_gop_s"] > 0
    r = run(tmp_path, "bench", "--model", STORY, "--tests", "nonsense")
    assert r.returncode == 2 and "nonsense" in r.stderr


def cpus_of_threads(pid):
    sets = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        line = next(x for x in (task / "status").read_text().splitlines()
                    if x.startswith("Cpus_allowed_list:"))
        sets.append(line.split(":")[1].strip())
    return sets


def test_bench_pins_its_threads_when_asked(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: every thread has it")
    for extra in ([], ["--pin-threads"]):
        p = subprocess.Popen([str(QUIRE), "bench", "--model", STORY, "--tests", "tg128",
                              "--threads", "2", "--rounds", "1000", *extra],
                             stdout=subprocess.PIPE, text=True,
                             env=dict(os.environ, QUIRE_HOME=str(tmp_path)))
        try:
            for _ in range(3):
                assert "|" in p.stdout.readline()  # a row: it runs
            pinned = False
            for _ in range(200 if extra else 20):  # the caller is pinned while a step runs
                sets = cpus_of_threads(p.pid)
                pinned = pinned or (len(set(sets)) == 2 and all(s.isdigit() for s in sets))
                if pinned:
                    break
                time.sleep(0.01)
            assert pinned == bool(extra), sets
        finally:
            p.kill()
            p.wait()
            p.stdout.close()


def test_bench_repeats_rounds_over_threads_and_kv_types(tmp_path):
    ask = ["bench", "--model", STORY, "--tests", "tg2", "--threads", "1,2", "--kv", "f16,f32",
           "--rounds", "2"]
    rows = answers(run(tmp_path, *ask, "--jsonl"))
    assert [(r["round"], r["threads"], r["kv"]) for r in rows] == [
        (n, t, kv) for n in (1, 2) for t in (1, 2) for kv in ("f16", "f32")], "not interleaved"
    table = run(tmp_path, *ask)
    assert table.returncode == 0
    lines = table.stdout.splitlines()
    rounds, medians = lines[:10], lines[11:]
    assert lines[10] == "" and len(medians) == 2 + 4
    for part in (rounds, medians):
        assert len({line.count("|") for line in part}) == 1
        assert part[0].split("|")[1].strip() == "test" and set(part[1]) == set("|-")
    for wrong in (["--threads", "two"], ["--threads", "1;2"], ["--threads", ""], ["--kv", "f17"],
                  ["--kv", "f16,f17"], ["--tests", ""], ["--tests", "b1000"], ["--rounds", "0"]):
        r = run(tmp_path, "bench", "--model", STORY, *wrong)
        assert r.returncode == 2 and r.stderr, wrong


def test_perplexity_scores_the_second_half_of_each_window(tmp_path):
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a little girl. She had a red ball. " * 12)
    ask = ["perplexity", "--model", STORY, "--file", str(text), "--kv", "f32", "--jsonl"]
    saved = str(tmp_path / "run")
    *steps, got = answers(run(tmp_path, *ask, "--ctx", "32", "--limit", "100", "--save", saved))
    assert got["windows"] == 3 and got["scored"] == 3 * 15
    assert steps[-1] == {"window": 3, "perplexity": got["perplexity"]}

    ids = answers(run(tmp_path, "tokenize", "--model", STORY, "--jsonl",
                      lines=[{"text": text.read_text()}]))[0]["ids"]
    windows = [[0, *ids[at + 1:at + 32]] for at in (0, 32, 64)]  # the model wants BOS, id 0
    rows = answers(run(tmp_path, "logits", "--model", STORY, "--kv", "f32", "--jsonl",
                       lines=[{"tokens": w, "positions": "all"} for w in windows]))
    nll = [math.log(sum(map(math.exp, logits))) - logits[w[i + 1]]
           for w, row in zip(windows, rows) for i, logits in enumerate(row["logits"])
           if 16 <= i < 31]
    mean = sum(nll) / len(nll)
    assert abs(math.log(got["perplexity"]) - mean) < 1e-5
    var = sum((x - mean) ** 2 for x in nll) / (len(nll) - 1)
    error = math.exp(mean) * math.sqrt(var / len(nll))
    assert abs(got["error"] - error) < 1e-3 * error

    # One window a step gives the same; so does a run held against itself.
    same = answers(run(tmp_path, *ask, "--ctx", "32", "--limit", "100", "--reference", saved,
                       "--threads", "1"))[-1]
    assert same["perplexity"] == got["perplexity"]
    assert abs(same["kl"]) < 1e-6 and same["kl_max"] < 1e-4 and same["top1_agreement"] == 1
    fewer = answers(run(tmp_path, *ask, "--ctx", "32", "--limit", "64", "--reference", saved))[-1]
    assert fewer["windows"] == 2 and abs(fewer["kl"]) < 1e-6
    other = answers(run(tmp_path, "perplexity", "--model", STORY, "--file", str(text), "--ctx",
                        "32", "--limit", "100", "--reference", saved, "--jsonl"))[-1]
    assert 0 < other["kl"] < 1e-3, "the f16 cache is near the f32 one, not equal to it"


def test_perplexity_refuses_what_it_cannot_compare(tmp_path):
    text, saved = tmp_path / "text", tmp_path / "run"
    text.write_text("Once upon a time there was a little girl. " * 12)
    ask = ["perplexity", "--model", STORY, "--ctx", "32", "--limit", "64"]
    assert run(tmp_path, *ask, "--file", str(text), "--save", str(saved)).returncode == 0

    def refused(word, *args, status=1):
        r = run(tmp_path, *ask, *args)
        assert r.returncode == status and word in r.stderr, r.stderr
    refused("--file", status=2)
    refused("nothing", "--file", str(tmp_path / "nothing"))
    refused("windows", "--file", str(text), "--reference", str(saved), "--limit", "128")
    refused("32", "--file", str(text), "--reference", str(saved), "--ctx", "16")
    refused("less than one window", "--file", str(text), "--ctx", "4096")
    other = tmp_path / "other"
    other.write_text("The cat sat on the mat and the dog sat on the cat. " * 12)
    refused("another text", "--file", str(other), "--reference", str(saved))
    for n in (0, 10, 100, saved.stat().st_size - 1):
        cut = tmp_path / "cut"
        cut.write_bytes(saved.read_bytes()[:n])
        refused("cut", "--file", str(text), "--reference", str(cut))
    cut.write_bytes(b"QLOGPRO1" + b"\xff" * 5000)
    refused("cut", "--file", str(text), "--reference", str(cut))
    refused(str(tmp_path / "no"), "--file", str(text), "--save",
            str(tmp_path / "no" / "run"))
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


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
    go = dict(line, template="{{ range .Messages }}<{{ .Role }}>{{ json .Content }}{{ end }}")
    got = answers(run(tmp_path, "template", "--go", "--jsonl", lines=[go]))
    assert got[0]["text"] == "".join(f"<{m['role']}>{json.dumps(m['content'])}"
                                     for m in line["messages"])
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
