# SPDX-License-Identifier: Apache-2.0
"""Management routes in Xinference's shapes."""
from quire_cluster import wait_for


def test_cluster_routes(story):
    assert story.get("/v1/cluster/auth").json == {"auth": False}
    address = story.get("/v1/address").json
    host, port = address.rsplit(":", 1)
    assert host and int(port) > 0
    status = story.get("/status").json
    assert status["uptime"] >= 0 and len(status["workers"]) == 1
    (worker,) = status["workers"].values()
    assert worker["status"]["cpu"]["memory_total"] > 1 << 28
    info = story.get("/v1/cluster/info").json
    assert [x["node_type"] for x in info] == ["Supervisor", "Worker"]
    detailed = story.get("/v1/cluster/info?detailed=true").json
    assert detailed[1]["cpu_count"] >= 1
    assert "version" in story.get("/v1/cluster/version").json
    assert story.get("/v1/supervisor").json["supervisor_ip"]
    (w,) = story.get("/v1/workers").json
    assert w["work-ip"] and any("story" in k for k in w["models"])
    assert isinstance(story.get("/v1/cluster/devices").json, int)


def test_list_describe_instances_progress(story):
    listing = story.get("/v1/models").json
    assert listing["object"] == "list"
    (m,) = listing["data"]
    assert m["id"] == "story" and m["object"] == "model" and m["model_type"] == "LLM"
    one = story.get("/v1/models/story").json
    assert one["model_name"] == "story" and one["model_format"] == "ggufv2"
    assert one["context_length"] > 0 and one["replica"] == 1
    assert "generate" in one["model_ability"] and "chat" not in one["model_ability"]
    (inst,) = story.get("/v1/models/instances?model_uid=story").json
    assert inst["status"] == "READY" and inst["replica"] == 1
    assert inst["replica_statuses"][0]["worker_address"]
    progress = story.get("/v1/models/story/progress").json
    assert progress["progress"] == 1.0
    assert story.get("/v1/models/nobody/progress").json["progress"] == 0.0
    r = story.get("/v1/models/nobody")
    assert r.status == 400 and "nobody" in r.json["detail"]


def test_launch_answers_and_refusals(story):
    r = story.post("/v1/models?wait_ready=false", dict(
        model_name="story", model_engine="llama.cpp", model_uid="later"))
    assert r.status == 200 and r.json["model_uid"] == "later"
    wait_for("ready", lambda: story.get("/v1/models/instances?model_uid=later").json[0]["status"]
             == "READY")
    r = story.post("/v1/models", dict(model_name="story", model_engine="quire", kv_type="q8_0"))
    assert r.status == 200
    told = story.post("/v1/chat/completions", dict(
        model=r.json["model_uid"], max_tokens=4, messages=[dict(role="user", content="Once")]))
    assert told.status == 200 and told.json["usage"]["completion_tokens"] == 4
    assert r.json["model_uid"].startswith("story-")
    assert story.delete("/v1/models/" + r.json["model_uid"]).json is None
    assert story.delete("/v1/models/later").status == 200
    assert story.delete("/v1/models/later").status == 400
    for bad in (dict(), dict(model_name="unheard-of"), dict(model_name="story", replica=0),
                dict(model_name="story", replica=True), dict(model_name="story", n_worker=1.5),
                dict(model_name="story", model_uid="x-rep0"),
                dict(model_name="story", worker_ip="203.0.113.9"),
                dict(model_name="story", quantization="q2_k"),
                dict(model_name="story", kv_type="q5"),
                dict(model_name="story", model_uid="a" * 101)):
        r = story.post("/v1/models", dict(bad, model_engine="quire"))
        assert r.status == 400, (bad, r.body)
        assert r.json["detail"]


def test_registrations_and_families(story):
    rows = story.get("/v1/model_registrations/LLM").json
    names = {r["model_name"]: r for r in rows}
    assert names["smollm2"]["is_builtin"] and names["story"]["is_builtin"]
    one = story.get("/v1/model_registrations/LLM/smollm2").json
    assert one["model_specs"][0]["model_format"] == "ggufv2"
    assert story.get("/v1/engines/smollm2").status == 200
    r = story.post("/v1/model_registrations/LLM", dict(model="{not json", persist=True))
    assert r.status == 400 and r.json["detail"]
    r = story.delete("/v1/model_registrations/LLM/smollm2")
    assert r.status == 400


def test_model_too_large_says_what_it_needs(story):
    r = story.post("/v1/models", dict(model_name="story", model_engine="quire", model_uid="big",
                                      n_ctx=2000000000))
    assert r.status in (400, 503), r.body
    assert r.json["detail"]
    story.delete("/v1/models/big")
