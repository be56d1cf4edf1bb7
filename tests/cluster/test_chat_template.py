# SPDX-License-Identifier: Apache-2.0
"""A chat template that comes with the launch or the registration, in place of the file's."""
import json
import subprocess

import pytest

from quire_cluster import QUIRE, ROOT, wait_for

STORY = ROOT / "share/models/story-Q8_0.gguf"
# As Ollama's models have it: turns, older reasoning, tools and calls in marks that no family uses.
GO = """{{- if .System }}<<sys>>{{ .System }}
{{ end }}
{{- if .Tools }}Tools: {{ json .Tools }}
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}User: {{ .Content }}
{{ else if eq .Role "assistant" }}Bot:{{ if .Thinking }}[[hm]]{{ .Thinking }}[[/hm]]{{ end }} {{ .Content }}
{{- if .ToolCalls }}[[call]]{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}[[/call]]{{ end }}
{{ end }}
{{- if $last }}Bot:{{ end }}
{{- end }}"""
JINJA = ("{%- for m in messages %}{% if m.content == 'boo' %}{{ raise_exception('no critics, ' ~ m.role) }}{% endif %}"
         "({{ m.role }}) {{ m.content }}\n{% endfor %}{{ 'go: ' if add_generation_prompt }}")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def n_tokens(template, go, messages, tools=None):
    """How long the prompt is when the tools render and cut it."""
    ask = {"template": template, "messages": messages, "tools": tools, "add_generation_prompt": True}

    def tool(*args, line):
        r = subprocess.run([str(QUIRE), *args, "--jsonl"], input=json.dumps(line) + "\n", capture_output=True,
                           text=True, check=True)
        return json.loads(r.stdout)

    text = tool("template", *(["--go"] if go else []), line=ask)["text"]
    assert text
    # A Go template leaves the BOS to the tokeniser.
    return len(tool("tokenize", "--model", str(STORY), line={"text": text, "add_special": go})["ids"])


def chat(c, uid, messages=CHAT, **fields):
    return c.post("/v1/chat/completions", {"model": uid, "messages": messages, "max_tokens": 60, "temperature": 0, **fields})


@pytest.fixture(scope="module")
def models(story, tmp_path_factory):
    """The same file three times: Go given to a launch, Jinja given to it, Go in a registration."""
    folder = tmp_path_factory.mktemp("templates")
    for name, text in (("chat.gotmpl", GO), ("chat.jinja", JINJA)):
        (folder / name).write_text(text)
        r = story.cli("launch", "--model-path", STORY, "--model-uid", name.split(".")[1], "--chat-template", folder / name)
        assert r.returncode == 0, r.stderr
    family = {"model_name": "from-ollama", "model_ability": ["chat", "tools"], "chat_template": GO, "chat_template_language": "go",
              "model_specs": [{"model_format": "ggufv2", "model_size_in_billions": 1, "quantization": "q8_0", "model_uri": str(STORY)}]}
    r = story.post("/v1/model_registrations/LLM", {"model": json.dumps(family), "persist": True})
    assert r.status == 200, r.body
    story.launch(model_name="from-ollama", model_uid="registered")
    return story


@pytest.mark.parametrize("uid,template,go", [("gotmpl", GO, True), ("jinja", JINJA, False), ("registered", GO, True)])
def test_the_given_template_writes_the_prompt(models, uid, template, go):
    r = chat(models, uid)
    assert r.status == 200, r.body
    assert r.json["usage"]["prompt_tokens"] == n_tokens(template, go, CHAT)
    own = chat(models, "story").json["usage"]["prompt_tokens"]
    assert r.json["usage"]["prompt_tokens"] != own
    assert models.get(f"/v1/models/{uid}").json["model_ability"][0] == "chat"


@pytest.mark.parametrize("uid", ["gotmpl", "registered"])
def test_answers_are_read_as_a_go_template_shows_them(models, uid):
    """The grammar makes the model write what the template shows of older answers."""
    body = '[[hm]]so it is[[/hm]] Look. [[call]]{"name": "look", "arguments": {"at": "me"}}[[/call]]'
    r = chat(models, uid, tools=[TOOL], grammar="root ::= " + json.dumps(body), max_tokens=200)
    assert r.status == 200, r.body
    assert r.json["usage"]["prompt_tokens"] == n_tokens(GO, True, CHAT, [TOOL])
    m = r.json["choices"][0]["message"]
    assert m["reasoning_content"].strip() == "so it is" and m["content"].strip() == "Look.", m
    assert [c["function"]["name"] for c in m["tool_calls"]] == ["look"], m
    assert json.loads(m["tool_calls"][0]["function"]["arguments"]) == {"at": "me"}
    assert r.json["choices"][0]["finish_reason"] == "tool_calls"
    history = [*CHAT, {"role": "assistant", "content": "Look.", "reasoning_content": "so", "tool_calls": m["tool_calls"]},
               {"role": "tool", "tool_call_id": m["tool_calls"][0]["id"], "content": "ok"}, {"role": "user", "content": "And?"}]
    r = chat(models, uid, history, tools=[TOOL], max_tokens=4)
    assert r.status == 200 and r.json["usage"]["prompt_tokens"] == n_tokens(GO, True, history, [TOOL])


@pytest.mark.parametrize("uid", ["gotmpl", "jinja"])
def test_a_call_is_forced_whatever_the_template(models, uid):
    r = chat(models, uid, tools=[TOOL], tool_choice="required", max_tokens=200)
    assert r.status == 200, r.body
    assert r.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"


def test_the_words_of_a_template_that_refuses_reach_the_client(models):
    r = chat(models, "jinja", [{"role": "user", "content": "x"}, {"role": "user", "content": "boo"}])
    assert r.status == 400 and "no critics, user" in r.json["error"]["message"], r.body


def test_a_template_that_cannot_be_used_fails_the_launch_with_its_line(models, tmp_path):
    for text, language, words in (("a\n{% if x %}\n", None, ["chat_template", "line 2", "endif"]), ("{{ .Foo", "go", ["chat_template", "line 1"]),
                                  ("{{ if .X }}\n\n{{ nofunc .Y }}{{ end }}", None, ["line 3", "nofunc"])):
        r = models.post("/v1/models", dict(model_name="bad", model_path=str(STORY), model_uid="bad", chat_template=text, chat_template_language=language), timeout=60)
        assert r.status >= 400 and all(w in r.body.decode() for w in words), r.body
    for fields, field in ((dict(chat_template="x" * 200000), "chat_template"), (dict(chat_template=5), "chat_template"),
                          (dict(chat_template="{{ x }}", chat_template_language="perl"), "chat_template_language")):
        r = models.post("/v1/models", dict(model_name="bad", model_path=str(STORY), model_uid="worse", **fields))
        assert r.status == 400 and field in r.body.decode(), r.body
    r = models.post("/v1/model_registrations/LLM", {"model": json.dumps({"model_name": "bad-family", "chat_template": 7, "model_specs": [{"model_uri": str(STORY)}]})})
    assert r.status == 400 and "chat_template" in r.body.decode()
    missing = models.cli("launch", "--model-path", STORY, "--chat-template", tmp_path / "none.jinja")
    assert missing.returncode != 0 and "none.jinja" in missing.stderr


def test_it_survives_a_restart(cluster, tmp_path):
    cluster.start_all()
    cluster.launch(model_name="kept", model_path=str(STORY), model_uid="kept", chat_template=GO)
    want = n_tokens(GO, True, CHAT)
    assert chat(cluster, "kept").json["usage"]["prompt_tokens"] == want
    cluster.stop()
    cluster.procs, cluster.logs = [], []
    cluster.start_all()
    wait_for("the model is back", lambda: chat(cluster, "kept").status == 200, 60)
    assert chat(cluster, "kept").json["usage"]["prompt_tokens"] == want
