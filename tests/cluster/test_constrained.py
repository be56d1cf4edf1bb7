# SPDX-License-Identifier: Apache-2.0
"""Answers that must have a form: through HTTP, the gateway and a real shard."""
import json
import re

import pytest

PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                           "age": {"type": "integer", "minimum": 0,
                                                   "maximum": 150},
                                           "kind": {"enum": ["cat", "dog"]}},
          "required": ["name", "age", "kind"]}
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "parameters": {
        "type": "object", "required": ["city", "unit"], "additionalProperties": False,
        "properties": {"city": {"type": "string", "maxLength": 10},
                       "unit": {"enum": ["C", "F"]}}}}}
TIME = {"type": "function", "function": {"name": "now", "parameters": {
    "type": "object", "properties": {}, "additionalProperties": False}}}
CHAT = [{"role": "user", "content": "Hello"}]


def ask(story, chat=False, **fields):
    body = {"model": "story", "temperature": 1, "seed": 1, "max_tokens": 200, **fields}
    if chat:
        r = story.post("/v1/chat/completions", {"messages": CHAT, **body})
    else:
        r = story.post("/v1/completions", {"prompt": "Once upon a time", **body})
    return r


def text(r):
    assert r.status == 200, r.body
    c = r.json["choices"][0]
    return c["text"] if "text" in c else c["message"]["content"]


def is_person(s):
    p = json.loads(s)
    assert set(p) == set(PERSON["required"]), p
    assert isinstance(p["name"], str) and len(p["name"]) <= 12
    assert type(p["age"]) is int and 0 <= p["age"] <= 150 and p["kind"] in ("cat", "dog")
    return p


SPELLINGS = [
    {"response_format": {"type": "json_schema",
                         "json_schema": {"name": "person", "schema": PERSON, "strict": True}}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}}},
    {"response_format": {"type": "json_schema", "schema": PERSON}},
    {"response_format": {"type": "json_object", "schema": PERSON}},
    {"json_schema": PERSON},
    {"guided_json": PERSON},
    {"guided_json": json.dumps(PERSON)},
    {"structured_outputs": {"json": PERSON}},
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: next(iter(s)))
def test_every_spelling_of_a_schema(story, spelling):
    for seed in range(3):
        r = ask(story, seed=seed, **spelling)
        is_person(text(r))
        assert r.json["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("spelling", [
    {"guided_regex": "[a-f]{4}-[0-9]{2}"}, {"regex": "[a-f]{4}-[0-9]{2}"},
    {"structured_outputs": {"regex": "[a-f]{4}-[0-9]{2}"}},
    {"response_format": {"type": "regex", "pattern": "[a-f]{4}-[0-9]{2}"}},
    {"grammar": 'root ::= [a-f]{4} "-" [0-9] [0-9]'},
    {"ebnf": 'root ::= [a-f]{4} "-" [0-9] [0-9]'},
    {"guided_grammar": 'root ::= a "-" n\na ::= [a-f]{4}\nn ::= [0-9]{2}'},
    {"structured_outputs": {"grammar": 'root ::= [a-f]{4} "-" [0-9]{2}'}}],
    ids=lambda s: next(iter(s)))
def test_regexes_and_grammars(story, spelling):
    r = ask(story, **spelling)
    assert re.fullmatch("[a-f]{4}-[0-9]{2}", text(r)), text(r)
    # Nothing can follow: the answer ends without a token that says so.
    assert r.json["choices"][0]["finish_reason"] == "stop"


def test_choices_and_any_object(story):
    words = ["Ja", "Nein \"doch\"", "vielleicht"]
    for spelling in ({"guided_choice": words}, {"structured_outputs": {"choice": words}}):
        assert text(ask(story, **spelling)) in words
    r = ask(story, response_format={"type": "json_object"}, temperature=0, max_tokens=300)
    assert isinstance(json.loads(text(r)), dict)
    assert text(r).startswith("{")
    assert text(ask(story, response_format={"type": "text"}, temperature=0, max_tokens=5))


def test_chat_stream_choices_and_logprobs(story):
    fields = {"response_format": SPELLINGS[0]["response_format"], "n": 3, "logprobs": True,
              "top_logprobs": 2}
    r = ask(story, chat=True, **fields)
    assert r.status == 200, r.body
    whole = [c["message"]["content"] for c in r.json["choices"]]
    assert len({tuple(is_person(w).items()) for w in whole}) > 1
    for c in r.json["choices"]:
        # Raw logits of the model: what the form forced may have been unlikely.
        assert all(t["logprob"] <= 0 and len(t["top_logprobs"]) == 2
                   for t in c["logprobs"]["content"])
    parts, reasons = ["", "", ""], [None] * 3
    for ev in story.stream("/v1/chat/completions", {
            "model": "story", "messages": CHAT, "temperature": 1, "seed": 1, "max_tokens": 200,
            **fields}):
        for c in ev["choices"] if ev != "[DONE]" else []:
            parts[c["index"]] += c["delta"].get("content") or ""
            reasons[c["index"]] = c["finish_reason"] or reasons[c["index"]]
    assert parts == whole and reasons == ["stop"] * 3


def test_limits_and_stop_strings_still_cut(story):
    r = ask(story, max_tokens=3, response_format=SPELLINGS[0]["response_format"])
    assert r.json["choices"][0]["finish_reason"] == "length"
    r = ask(story, stop=["\":"], response_format=SPELLINGS[0]["response_format"])
    assert r.json["choices"][0]["finish_reason"] == "stop" and '":' not in text(r)
    assert text(ask(story, logit_bias={str(i): -100 for i in range(1024)},
                    guided_choice=["yes"])) == "yes"


def test_answers_end_within_the_budget(story):
    loose = {"type": "object", "required": ["title", "tags", "n"], "properties": {
        "title": {"type": "string"}, "n": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}}}}
    reasons = set()
    for budget in (60, 90, 140):
        for seed in range(4):
            r = ask(story, seed=seed, max_tokens=budget, json_schema=loose)
            assert set(json.loads(text(r))) == {"title", "tags", "n"}
            assert r.json["usage"]["completion_tokens"] <= budget
            reasons.add(r.json["choices"][0]["finish_reason"])
            # The same alone and as one of several.
            assert text(ask(story, seed=seed, max_tokens=budget, json_schema=loose, n=2)) == text(r)
    assert "length" in reasons
    r = ask(story, max_tokens=40, response_format={"type": "json_object"})
    assert isinstance(json.loads(text(r)), dict)
    for seed in range(4):
        assert re.fullmatch("[a-z ]*[.]([0-9]{2})+", text(ask(
            story, seed=seed, max_tokens=12, guided_regex="[a-z ]*[.]([0-9]{2})+")))
    # A call that the budget ended is whole, yet nobody should run it.
    tool = {"type": "function", "function": {"name": "say", "parameters": {
        "type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}}}
    for seed in range(4):
        r = ask(story, chat=True, seed=seed, max_tokens=70, tools=[tool], tool_choice="required")
        c = r.json["choices"][0]
        assert c["finish_reason"] in ("length", "tool_calls"), c
        for call in c["message"].get("tool_calls", []):
            assert set(json.loads(call["function"]["arguments"])) == {"text"}


def bad(story, status=400, **fields):
    r = ask(story, chat=True, **fields)
    assert r.status == status, r.body
    return r.json["error"]


def test_refusals_name_what_is_wrong(story):
    def schema(s):
        return {"response_format": {"type": "json_schema", "json_schema": {"schema": s}}}
    e = bad(story, **schema({"properties": {"a": {"unevaluatedItems": False}}}))
    assert "unevaluatedItems" in e["message"] and "#/properties/a" in e["message"]
    assert e["param"] == "response_format" and e["code"] == "invalid_json_schema"
    for s in ({"type": "strin"}, {"$ref": "#/$defs/none"}, {"enum": []}, {"not": {}}, 7, None,
              {"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}):
        assert bad(story, **schema(s))["code"] == "invalid_json_schema", s
    e = bad(story, grammar="root ::= x")
    assert e["code"] == "invalid_grammar" and e["param"] == "grammar" and "x" in e["message"]
    assert bad(story, guided_regex="a(")["code"] == "invalid_grammar"
    assert bad(story, guided_choice=[])["param"] == "guided_choice"
    assert bad(story, response_format={"type": "yaml"})["param"] == "response_format"
    assert bad(story, response_format={"type": "json_schema"})["param"] == "response_format"
    e = bad(story, guided_regex="a", json_schema=PERSON)
    assert "guided_regex" in e["message"] and "json_schema" in e["message"]
    assert bad(story, structured_outputs={"structural_tag": {}})["code"] == "unsupported_parameter"
    e = bad(story, response_format={"type": "json_schema", "json_schema": {
        "name": "a b", "schema": PERSON}})
    assert e["param"] == "response_format.json_schema.name"


def calls_of(r):
    assert r.status == 200, r.body
    c = r.json["choices"][0]
    assert c["finish_reason"] == "tool_calls" and c["message"]["content"] is None, c
    for call in c["message"]["tool_calls"]:
        assert call["type"] == "function" and call["id"]
        args = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "now":
            assert args == {}
        else:
            assert call["function"]["name"] == "get_weather"
            assert set(args) == {"city", "unit"} and args["unit"] in ("C", "F")
            assert len(args["city"]) <= 10
    return c["message"]["tool_calls"]


def test_forced_calls_come_every_time(story):
    names = set()
    for seed in range(12):
        calls = calls_of(ask(story, chat=True, seed=seed, tools=[WEATHER, TIME],
                             tool_choice="required", stop=["name"]))
        names |= {c["function"]["name"] for c in calls}
    assert names == {"get_weather", "now"}
    for name in ("get_weather", "now"):
        for choice in ({"type": "function", "function": {"name": name}},
                       {"type": "function", "name": name},
                       {"type": "allowed_tools", "allowed_tools": {
                           "mode": "required", "tools": [
                               {"type": "function", "function": {"name": name}}]}}):
            calls = calls_of(ask(story, chat=True, tools=[WEATHER, TIME], tool_choice=choice))
            assert {c["function"]["name"] for c in calls} == {name}
    assert len(calls_of(ask(story, chat=True, tools=[WEATHER, TIME], tool_choice="required",
                            parallel_tool_calls=False))) == 1


def test_a_forced_call_streams(story):
    name, args, reasons = [], "", []
    for ev in story.stream("/v1/chat/completions", {
            "model": "story", "messages": CHAT, "seed": 3, "max_tokens": 200,
            "tools": [WEATHER], "tool_choice": "required"}):
        for c in ev["choices"] if ev != "[DONE]" else []:
            assert not c["delta"].get("content")
            for t in c["delta"].get("tool_calls", []):
                assert t["index"] == 0
                name += [t["function"]["name"]] if "name" in t["function"] else []
                args += t["function"]["arguments"]
            reasons += [c["finish_reason"]] if c["finish_reason"] else []
    assert name == ["get_weather"] and set(json.loads(args)) == {"city", "unit"}
    assert reasons == ["tool_calls"]


def test_a_forced_function_in_the_old_words(story):
    for seed in range(4):
        r = ask(story, chat=True, seed=seed, functions=[WEATHER["function"], TIME["function"]],
                function_call={"name": "get_weather"})
        assert r.status == 200, r.body
        c = r.json["choices"][0]
        assert c["finish_reason"] == "function_call" and "tool_calls" not in c["message"]
        call = c["message"]["function_call"]
        assert call["name"] == "get_weather"
        assert set(json.loads(call["arguments"])) == {"city", "unit"}


def test_strict_tools_leave_the_text_alone(story):
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    fields = {"temperature": 0, "max_tokens": 20}
    free = ask(story, chat=True, tools=[WEATHER], **fields)
    kept = ask(story, chat=True, tools=[strict], **fields)
    assert text(free) == text(kept)
    broken = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {
        "type": "object", "properties": {"a": {"unevaluatedItems": False}}}}}
    e = bad(story, tools=[TIME, broken])
    assert e["param"] == "tools[1].function.parameters" and "unevaluatedItems" in e["message"]
    broken["function"]["strict"] = False
    assert text(ask(story, chat=True, tools=[strict, broken], **fields)) == text(free)


def test_a_prompt_is_scored_alone(story):
    whole = ask(story, max_tokens=3, temperature=0, echo=True, logprobs=1)
    r = ask(story, max_tokens=0, echo=True, logprobs=1)
    assert text(r) == "Once upon a time" and r.json["usage"]["completion_tokens"] == 0
    assert r.json["choices"][0]["finish_reason"] == "length"
    lps = r.json["choices"][0]["logprobs"]["token_logprobs"]
    assert lps[0] is None and len(lps) == r.json["usage"]["prompt_tokens"]
    assert whole.json["choices"][0]["logprobs"]["token_logprobs"][:len(lps)] == lps


def test_tool_choices_that_cannot_be(story):
    assert bad(story, tool_choice="required")["param"] == "tool_choice"
    named = {"type": "function", "function": {"name": "nobody"}}
    assert "nobody" in bad(story, tools=[TIME], tool_choice=named)["message"]
    assert bad(story, tools=[TIME], tool_choice="sometimes")["param"] == "tool_choice"
    assert bad(story, tools=[TIME], tool_choice="required", grammar='root ::= "a"')
    broken = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"unevaluatedItems": False}}}}}
    e = bad(story, tools=[TIME, broken], tool_choice="required")
    assert e["param"] == "tools[1].function.parameters" and "unevaluatedItems" in e["message"]
    r = ask(story, chat=True, tools=[TIME], tool_choice="none", temperature=0, max_tokens=8)
    assert r.status == 200 and "tool_calls" not in r.json["choices"][0]["message"]
