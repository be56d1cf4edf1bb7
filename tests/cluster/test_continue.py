# SPDX-License-Identifier: Apache-2.0
"""No lost stream: shards are killed in the middle of answers, and nobody notices."""
import json
import os
import pathlib
import signal
import threading
import time

import pytest

from quire_cluster import Cluster, wait_for

PERSON = {"type": "object", "required": ["name", "kind", "words"], "properties": {
    "name": {"type": "string"}, "kind": {"enum": ["cat", "dog"]},
    "words": {"type": "array", "minItems": 6, "items": {"type": "string", "minLength": 4}}}}
SAY = {"type": "function", "function": {"name": "say", "parameters": {
    "type": "object", "required": ["text", "tone"], "additionalProperties": False,
    "properties": {"text": {"type": "string", "minLength": 150}, "tone": {"enum": ["a", "b"]}}}}}
CHAT = [{"role": "user", "content": "Once upon a time there was a little girl"}]
TEXT = {"prompt": "Once upon a time", "max_tokens": 70, "ignore_eos": True}

CASES = {
    "greedy": (False, {**TEXT, "temperature": 0}),
    "seeded": (False, {**TEXT, "temperature": 1, "seed": 7, "top_p": 0.95,
                       "repetition_penalty": 1.1, "frequency_penalty": 0.2}),
    "echo": (False, {**TEXT, "temperature": 0, "echo": True, "logprobs": 2}),
    "choices": (True, {"messages": CHAT, "max_tokens": 40, "n": 3, "temperature": 1, "seed": 3,
                       "ignore_eos": True}),
    "logprobs": (True, {"messages": CHAT, "max_tokens": 70, "temperature": 1, "seed": 5,
                        "logprobs": True, "top_logprobs": 2, "ignore_eos": True,
                        "stop": ["no such words", "the the the"]}),
    "schema": (True, {"messages": CHAT, "max_tokens": 300, "temperature": 1, "seed": 9,
                      "response_format": {"type": "json_schema", "json_schema": {
                          "name": "person", "schema": PERSON, "strict": True}}}),
    "budget": (True, {"messages": CHAT, "max_tokens": 140, "temperature": 1, "seed": 11,
                      "json_schema": PERSON}),
    "tools": (True, {"messages": CHAT, "max_tokens": 300, "temperature": 1, "seed": 4,
                     "tools": [SAY], "tool_choice": "required"}),
}


def route(chat):
    return "/v1/chat/completions" if chat else "/v1/completions"


def cpu_ns(pid):
    total = 0
    for f in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(f.read_text().split()[0])
        except OSError:
            pass
    return total


class Killer:
    """Knows which shard has worked since it was made, and kills it."""

    def __init__(self, c):
        self.c = c
        self.before = {pid: cpu_ns(pid) for pid in c.shards()}

    def busy(self):
        worked = {pid: cpu_ns(pid) - self.before.get(pid, 0) for pid in self.c.shards()}
        return max(worked, key=worked.get)

    def strike(self):
        os.kill(self.busy(), signal.SIGKILL)

    def strike_machine(self):
        stat = pathlib.Path(f"/proc/{self.busy()}/stat").read_text()
        os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)


def losses(c):
    return c.log(0).count("was lost with a request on it")


def plain(v):
    """Without what differs between two requests: ids and times."""
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items() if k not in ("id", "created")}
    return [plain(x) for x in v] if isinstance(v, list) else v


def ids(events):
    return {e["id"] for e in events if e != "[DONE]"}


def by_choice(events):
    """Choices run side by side: only their own order is given."""
    rows = {}
    for e in events:
        index = e["choices"][0]["index"] if e != "[DONE]" and e["choices"] else "end"
        rows.setdefault(index, []).append(e)
    return rows


def streamed(c, uid, case, strikes=(), strike=Killer.strike):
    """Events of the answer by choice; a shard is killed as soon as so many came."""
    chat, body = CASES[case]
    killer, events, strikes = Killer(c), [], list(strikes)
    body = dict(body, model=uid, stream_options={"include_usage": True})
    for ev in c.stream(route(chat), body, timeout=90):
        events.append(ev)
        if strikes and len(events) >= strikes[0]:
            strikes.pop(0)
            strike(killer)
            killer = Killer(c)
    assert len(ids(events)) == 1 and events[-1] == "[DONE]"
    return by_choice(plain(events))


def whole(c, uid, case, after_ms=None):
    chat, body = CASES[case]
    killer = Killer(c)
    timer = threading.Timer(after_ms / 1000, killer.strike) if after_ms else None
    if timer:
        timer.start()
    r = c.post(route(chat), dict(body, model=uid), timeout=90)
    if timer:
        timer.join()
    assert r.status == 200, r.body
    return plain(r.json)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    # Slow kernels: a story of 200 tokens takes long enough to be met in its middle.
    c = Cluster(tmp_path_factory.mktemp("pair"), env={"QUIRE_CPU": "ref"})
    c.start_supervisor()
    c.start_worker("--pack-cache", "off")
    c.start_worker("--pack-cache", "off")
    c.wait_workers(2)
    yield c
    c.kill()


def ready(c, uid, n):
    def up():
        (m,) = c.get(f"/v1/models/instances?model_uid={uid}").json
        return sum(r["status"] == "READY" for r in m["replica_statuses"]) == n
    wait_for(f"{n} replicas of {uid} are ready", up, 20)


@pytest.fixture
def launched(pair):
    """Launch under a name of its own: each may restart only so often."""
    uids = []

    def launch(**kw):
        uids.append(pair.launch(model_name="story", model_uid=f"s{time.monotonic_ns()}", **kw))
        return uids[-1]
    yield launch
    for uid in uids:
        pair.delete(f"/v1/models/{uid}")
    wait_for("all shards are gone", lambda: not pair.shards())


@pytest.mark.parametrize("case", CASES)
def test_a_killed_replica_is_not_noticed(pair, launched, case):
    uid = launched(replica=2)
    as_stream, at_once = streamed(pair, uid, case), whole(pair, uid, case)
    before = losses(pair)
    assert streamed(pair, uid, case, [12]) == as_stream
    assert losses(pair) > before, "the answer was over before the kill"
    ready(pair, uid, 2)
    before, after_ms = losses(pair), 40
    while losses(pair) == before:
        assert after_ms > 1
        assert whole(pair, uid, case, after_ms) == at_once
        ready(pair, uid, 2)
        after_ms /= 2


@pytest.mark.parametrize("case", ["seeded", "choices", "tools"])
def test_both_replicas_are_killed_one_after_the_other(pair, launched, case):
    uid = launched(replica=2)
    as_stream, before = streamed(pair, uid, case), losses(pair)
    assert streamed(pair, uid, case, [3, 25]) == as_stream
    assert losses(pair) == before + 2


@pytest.mark.parametrize("case", ["greedy", "schema"])
def test_the_only_replica_comes_back(pair, launched, case):
    uid = launched()
    as_stream, before = streamed(pair, uid, case), losses(pair)
    assert streamed(pair, uid, case, [15]) == as_stream
    assert losses(pair) == before + 1


def test_a_frozen_replica_is_not_waited_for(pair, launched):
    uid = launched(replica=2)
    as_stream, before, frozen = streamed(pair, uid, "seeded"), losses(pair), []

    def freeze(killer):
        frozen.append(killer.busy())
        os.kill(frozen[0], signal.SIGSTOP)
    try:
        assert streamed(pair, uid, "seeded", [15], freeze) == as_stream
    finally:
        os.kill(frozen[0], signal.SIGCONT)  # it goes on talking, to nobody
    assert losses(pair) == before + 1
    assert streamed(pair, uid, "seeded") == as_stream


@pytest.mark.parametrize("victim", [0, 1])
def test_a_shard_of_a_split_replica_is_killed(pair, launched, victim):
    uid = launched(n_worker=2)
    as_stream, before = streamed(pair, uid, "seeded"), losses(pair)

    def strike(_):
        (m,) = pair.get(f"/v1/models/instances?model_uid={uid}").json
        os.kill(m["replica_statuses"][0]["shards"][victim]["pid"], signal.SIGKILL)
    assert streamed(pair, uid, "seeded", [15], strike) == as_stream
    assert losses(pair) == before + 1


def test_a_terminated_model_ends_its_answers(pair, launched):
    uid = launched()
    chat, body = CASES["greedy"]
    events = []
    for ev in pair.stream(route(chat), dict(body, model=uid, max_tokens=200)):
        events.append(ev)
        if len(events) == 5:
            assert pair.delete(f"/v1/models/{uid}").status == 200
    assert events[-1]["error"]["code"] == "replica_lost" and len(events) > 5


def test_a_machine_that_leaves_is_not_noticed(cluster):
    cluster.env["QUIRE_CPU"] = "ref"
    cluster.start_supervisor()
    first = cluster.start_worker()
    cluster.wait_workers(1)
    cluster.launch(model_name="story", model_uid="s")
    as_stream = streamed(cluster, "s", "seeded")
    cluster.start_worker()
    cluster.wait_workers(2)
    assert streamed(cluster, "s", "seeded", [15], lambda _: first.terminate()) == as_stream
    # Nobody waits for a sign of life from a worker that said goodbye.
    assert "it said goodbye" in cluster.log(0) and "no sign of life" not in cluster.log(0)


def test_a_killed_machine_is_not_noticed(cluster):
    cluster.env["QUIRE_CPU"] = "ref"
    cluster.start_supervisor()
    for _ in range(2):
        cluster.start_worker()
    cluster.wait_workers(2)
    cluster.launch(model_name="story", model_uid="s", replica=2)
    as_stream = streamed(cluster, "s", "seeded")
    assert streamed(cluster, "s", "seeded", [15], Killer.strike_machine) == as_stream
    cluster.start_worker()
    ready(cluster, "s", 2)
    assert streamed(cluster, "s", "seeded", [15], Killer.strike_machine) == as_stream
    assert losses(cluster) == 2
