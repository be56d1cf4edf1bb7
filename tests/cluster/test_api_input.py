# SPDX-License-Identifier: Apache-2.0
"""Bad input over HTTP: the right status, an OpenAI error object that names the field."""
import http.client
import json
import socket

import pytest

CHAT = {"model": "story", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "story", "prompt": "Once", "max_tokens": 4}

BAD = [
    # path, body, status, param
    ("/v1/completions", b"{", 400, None),
    ("/v1/completions", b"[]", 400, None),
    ("/v1/completions", b"", 400, None),
    ("/v1/completions", b'{"model": "story", "prompt": "\xff"}', 400, None),
    ("/v1/completions", b"[" * 100000, 400, None),
    ("/v1/completions", {**TEXT, "model": "nobody"}, 404, "model"),
    ("/v1/completions", {**TEXT, "model": 3}, 400, "model"),
    ("/v1/completions", {**TEXT, "max_tokens": -2}, 400, "max_tokens"),
    ("/v1/completions", {**TEXT, "max_tokens": "many"}, 400, "max_tokens"),
    ("/v1/completions", {**TEXT, "temperature": 2.5}, 400, "temperature"),
    ("/v1/completions", {**TEXT, "temperature": "hot"}, 400, "temperature"),
    ("/v1/completions", {**TEXT, "top_p": -0.1}, 400, "top_p"),
    ("/v1/completions", {**TEXT, "n": 0}, 400, "n"),
    ("/v1/completions", {**TEXT, "stop": 5}, 400, "stop"),
    ("/v1/completions", {**TEXT, "stop": ["x"] * 100}, 400, "stop"),
    ("/v1/completions", {**TEXT, "prompt": {"a": 1}}, 400, "prompt"),
    ("/v1/completions", {**TEXT, "prompt": [1, 999999]}, 400, None),
    ("/v1/completions", {**TEXT, "prompt": "word " * 20000}, 400, None),
    ("/v1/completions", {**TEXT, "logit_bias": {"x": 1}}, 400, "logit_bias"),
    ("/v1/completions", {**TEXT, "stream": "yes"}, 400, "stream"),
    ("/v1/chat/completions", {"model": "story"}, 400, "messages"),
    ("/v1/chat/completions", {"model": "story", "messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"model": "story", "messages": "hi"}, 400, "messages"),
    ("/v1/chat/completions", {"model": "story", "messages": [{"role": "user"}]}, 400, None),
    ("/v1/chat/completions", {**CHAT, "top_logprobs": 50, "logprobs": True}, 400, "top_logprobs"),
    ("/v1/chat/completions", {**CHAT, "response_format": {"type": "yaml"}}, 400,
     "response_format"),
]


@pytest.mark.parametrize("path,body,status,param", BAD,
                         ids=[f"{i}-{b[3] or b[2]}" for i, b in enumerate(BAD)])
def test_bad_requests(story, path, body, status, param):
    r = story.post(path, body)
    assert r.status == status, r.body
    error = r.json["error"]
    assert error["message"] and error["type"]
    assert isinstance(r.json["detail"], str)
    if param:
        assert error["param"] == param


def test_still_alive_after_all_that(story):
    assert story.complete("story")["text"]


def test_wrong_method_path_and_type(story):
    assert story.get("/v1/completions").status == 405
    r = story.get("/v1/nothing/here")
    assert r.status == 404 and r.json["detail"]
    r = story.post("/v1/completions", "model=story", headers={
        "Content-Type": "application/x-www-form-urlencoded"})
    assert r.status in (400, 415) and r.json["error"]["message"]


def test_huge_body_is_refused_without_reading_it(story):
    with socket.create_connection((story.host, story.port)) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
                  b"Content-Type: application/json\r\n\r\n")
        s.settimeout(5)
        assert b" 413 " in s.recv(4096).split(b"\r\n")[0]


def test_half_a_request_does_not_disturb_others(story):
    half = socket.create_connection((story.host, story.port))
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
    assert story.complete("story")["text"]
    half.close()


def test_keep_alive_and_pipelining(story):
    body = json.dumps({**TEXT, "max_tokens": 1, "temperature": 0}).encode()
    one = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
           b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
    with socket.create_connection((story.host, story.port)) as s:
        s.sendall(one * 3)
        f = s.makefile("rb")
        for _ in range(3):
            assert b"200" in f.readline()
            n = 0
            while (line := f.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    n = int(line.split(b":")[1])
            assert json.loads(f.read(n))["usage"]["completion_tokens"] == 1


def test_usage_stop_seed_and_finish_reasons(story):
    r = story.post("/v1/completions", {**TEXT, "max_tokens": 8, "temperature": 0,
                                       "prompt": "Once upon a time"}).json
    assert r["object"] == "text_completion" and r["id"].startswith("cmpl-")
    assert r["choices"][0]["finish_reason"] == "length"
    usage = r["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    text = r["choices"][0]["text"]
    word = text.split()[1]
    cut = story.complete("story", stop=[word])
    assert cut["finish_reason"] == "stop" and cut["text"] == text[:text.index(word)]
    a = story.complete("story", seed=7, max_tokens=16)
    body = dict(model="story", prompt="Once upon a time", max_tokens=16, temperature=1.0, seed=11)
    b = [story.post("/v1/completions", body).json["choices"][0]["text"] for _ in range(2)]
    assert b[0] == b[1] and a["text"]
    body["seed"] = 12
    assert story.post("/v1/completions", body).json["choices"][0]["text"] != b[0]


def test_stream_equals_whole_answer_and_ends_properly(story):
    whole = story.complete("story", max_tokens=30)["text"]
    events = list(story.stream("/v1/completions", dict(
        model="story", prompt="Once upon a time", max_tokens=30, temperature=0,
        stream_options={"include_usage": True})))
    assert events[-1] == "[DONE]"
    assert "".join(c["text"] for e in events[:-1] for c in e["choices"]) == whole
    assert events[-2]["usage"]["completion_tokens"] == 30 and events[-2]["choices"] == []
    reasons = [c["finish_reason"] for e in events[:-1] for c in e["choices"]]
    assert reasons.count("length") == 1


def test_a_model_without_tools_answers_when_offered_some(story):
    body = {**CHAT, "max_tokens": 12, "temperature": 0}
    plain = story.post("/v1/chat/completions", body).json["choices"][0]
    body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for choice in ("auto", "none"):
        r = story.post("/v1/chat/completions", {**body, "tool_choice": choice})
        assert r.status == 200, r.body
        assert r.json["choices"][0] == plain
    events = list(story.stream("/v1/chat/completions", body))
    assert events[-1] == "[DONE]"
    choices = [c for e in events[:-1] for c in e["choices"]]
    text = "".join(c["delta"].get("content") or "" for c in choices)
    assert text == plain["message"]["content"]
    assert choices[-1]["finish_reason"] == plain["finish_reason"] == "length"


def test_a_client_that_leaves_stops_the_work(story):
    from quire_cluster import wait_for
    conn = http.client.HTTPConnection(story.host, story.port)
    conn.request("POST", "/v1/completions", json.dumps(dict(
        model="story", prompt="Once", max_tokens=100000, ignore_eos=True, stream=True)),
        {"Content-Type": "application/json"})
    r = conn.getresponse()
    r.readline()
    import os
    (shard,) = story.shards()

    def cpu():
        with open(f"/proc/{shard}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    conn.sock.close() if conn.sock else r.close()
    r.close()
    conn.close()

    def idle():
        import time
        before = cpu()
        time.sleep(0.3)
        return cpu() - before <= 0.1 * os.sysconf("SC_CLK_TCK") * 0.3
    wait_for("the shard is idle again", idle, 5)
    assert story.complete("story")["text"]
