# SPDX-License-Identifier: Apache-2.0
"""Forced calls over varied tools, in every way that families write them. QUIRE_TOOL_MODEL names
another model file than the one that ships."""
import json
import os
import random
import re

import pytest

from quire_cluster import ROOT

MODEL = os.environ.get("QUIRE_TOOL_MODEL") or ROOT / "share/models/story-Q8_0.gguf"
MARKS = {"hermes": "<tool_call>", "qwen3_coder": "<tool_call> <function=", "glm": "<arg_key>",
         "minimax_m2": "<minimax:tool_call>", "seed_oss": "<seed:tool_call>",
         "deepseek_v32": "｜DSML｜", "gemma4": "<|tool_call>", "lfm2": "<|tool_call_start|>",
         "pythonic": "<function_calls>", "command_r_plus": "Action: ```json", "none": ""}
TEMPLATE = "{%- set marks = %s %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def a_schema(r, depth=0):
    kinds = ["plain", "short", "choice", "pattern", "maybe", "int", "number", "bool", "date", "either"]
    kind = r.choice(kinds + ["list", "object"] * (depth < 2))
    if kind == "list":
        return {"type": "array", "items": a_schema(r, depth + 1), "maxItems": r.randint(1, 3)}
    if kind == "object":
        return an_object(r, depth + 1)
    return {"plain": {"type": "string"},
            "short": {"type": "string", "minLength": r.randint(0, 2), "maxLength": r.randint(3, 20)},
            "choice": {"enum": r.sample(["C", "F", "1", 2, None, "a b", "\"q\"", "é", True], 3)},
            "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
            "maybe": {"type": [r.choice(["string", "integer"]), "null"]},
            "int": {"type": "integer", "minimum": -5, "maximum": r.randint(0, 1000)},
            "number": {"type": "number"}, "bool": {"type": "boolean"},
            "date": {"type": "string", "format": "date"},
            "either": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "integer"}]}}[kind]


def an_object(r, depth=0):
    names = r.sample(["city", "unit", "n", "when", "Who", "to_do", "x1", "path"], r.randint(0, 4))
    return {"type": "object", "properties": {k: a_schema(r, depth) for k in names},
            "required": [k for k in names if r.random() < 0.7], "additionalProperties": False}


def tool_set(seed):
    r = random.Random(seed)
    return [{"type": "function", "function": {"name": name, "parameters": an_object(r)}}
            for name in r.sample(["look", "get_weather", "now", "send", "find_all", "f"], r.randint(1, 4))]


def valid(v, s):
    """Does v meet s, of the schemas made above?"""
    if "anyOf" in s:
        return any(valid(v, x) for x in s["anyOf"])
    if "enum" in s:
        return any(type(v) is type(x) and v == x for x in s["enum"])
    types = s["type"] if isinstance(s["type"], list) else [s["type"]]
    kind = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null",
            list: "array", dict: "object"}[type(v)]
    if kind not in types and not (kind == "integer" and "number" in types):
        return False
    if kind == "string":
        if not s.get("minLength", 0) <= len(v) <= s.get("maxLength", 10 ** 9):
            return False
        if s.get("format") == "date" and not re.fullmatch(r"\d{4}-\d\d-\d\d", v):
            return False
        return "pattern" not in s or re.search(s["pattern"], v) is not None
    if kind == "integer":
        return s.get("minimum", v) <= v <= s.get("maximum", v)
    if kind == "array":
        return len(v) <= s["maxItems"] and all(valid(x, s["items"]) for x in v)
    if kind == "object":
        return (set(s["required"]) <= set(v) <= set(s["properties"])
                and all(valid(x, s["properties"][k]) for k, x in v.items()))
    return True


def calls_of(r):
    assert r.status == 200, r.body
    c = r.json["choices"][0]
    assert not c["message"].get("content"), c
    assert c["finish_reason"] in ("tool_calls", "length"), c
    return c["message"]["tool_calls"]


@pytest.fixture(scope="module")
def family(story, tmp_path_factory):
    """A launch of the model under a template that shows the family's marks."""
    folder = tmp_path_factory.mktemp("families")
    have = {}

    def get(name):
        if name not in have:
            path = folder / f"{name}.jinja"
            path.write_text(TEMPLATE.replace("%s", repr(MARKS[name])))
            r = story.cli("launch", "--model-path", MODEL, "--model-uid", f"as-{name}", "--chat-template", path)
            assert r.returncode == 0, r.stderr
            have[name] = f"as-{name}"
        return have[name]
    yield get
    for uid in have.values():
        story.cli("terminate", uid)


def ask(c, uid, tools, **fields):
    return c.post("/v1/chat/completions", {
        "model": uid, "messages": [{"role": "user", "content": "Go on."}], "tools": tools,
        "temperature": 1, "max_tokens": 220, **fields})


@pytest.mark.parametrize("name", MARKS)
def test_a_required_call_always_comes(story, family, name):
    n = 50 if name in ("hermes", "none") else 6
    for seed in range(n):
        tools = tool_set(seed)
        by_name = {t["function"]["name"]: t["function"]["parameters"] for t in tools}
        choice = "required"
        if seed % 3 == 1:
            choice = {"type": "function", "function": {"name": tools[-1]["function"]["name"]}}
        calls = calls_of(ask(story, family(name), tools, seed=seed, tool_choice=choice))
        assert calls and len({c["id"] for c in calls}) == len(calls)
        for c in calls:
            f = c["function"]
            assert valid(json.loads(f["arguments"]), by_name[f["name"]]), (seed, f, by_name)
            if seed % 3 == 1:
                assert f["name"] == tools[-1]["function"]["name"]


@pytest.mark.parametrize("name", ["glm", "lfm2", "gemma4"])
def test_streamed_calls_are_the_whole_ones(story, family, name):
    for seed in range(3):
        tools = tool_set(seed + 100)
        fields = {"tool_choice": "required", "seed": seed, "temperature": 0}
        whole = calls_of(ask(story, family(name), tools, **fields))
        calls = []
        for line in ask(story, family(name), tools, stream=True, **fields).body.splitlines():
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                assert not choice["delta"].get("content")
                for t in choice["delta"].get("tool_calls", []):
                    if t["index"] == len(calls):
                        assert t["id"] and t["type"] == "function" and t["function"]["name"]
                        calls.append([t["function"]["name"], ""])
                    else:
                        assert t["index"] == len(calls) - 1 and "id" not in t and "name" not in t["function"]
                    calls[-1][1] += t["function"].get("arguments", "")
        assert calls == [[c["function"]["name"], c["function"]["arguments"]] for c in whole]
