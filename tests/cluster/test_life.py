# SPDX-License-Identifier: Apache-2.0
"""Processes live and die as promised: clean stops, kills, restarts, no orphans."""
import json
import os
import signal
import threading
import time

from quire_cluster import Cluster, processes_with, wait_for


def test_sigterm_stops_everything(cluster):
    cluster.start_all()
    cluster.launch(model_name="story")
    assert len(cluster.shards()) == 1
    assert cluster.stop() == [0]


def test_sigterm_in_the_middle_of_answers(cluster):
    cluster.start_all()
    cluster.launch(model_name="story")

    def talk():
        try:
            for _ in cluster.stream("/v1/completions", dict(
                    model="story", prompt="Once", max_tokens=400, ignore_eos=True)):
                pass
        except OSError:
            pass
    threads = [threading.Thread(target=talk) for _ in range(4)]
    for t in threads:
        t.start()
    time.sleep(0.1)
    assert cluster.stop() == [0]
    for t in threads:
        t.join(10)
        assert not t.is_alive()


def test_killed_worker_leaves_no_shard_and_a_new_one_takes_over(cluster):
    cluster.start_supervisor()
    worker = cluster.start_worker()
    cluster.wait_workers(1)
    cluster.launch(model_name="story")
    text = cluster.complete("story")["text"]
    assert cluster.shards()
    worker.kill()
    worker.wait()
    cluster.procs.remove(worker)
    wait_for("the shards of a killed worker are gone", lambda: not cluster.shards(), 5)
    cluster.start_worker()

    def answers():
        r = cluster.post("/v1/completions", dict(model="story", prompt="Once upon a time",
                                                 max_tokens=24, temperature=0))
        return r.status == 200 and r.json["choices"][0]["text"] == text
    wait_for("the model answers again on the new worker", answers, 20)


def test_killed_shard_is_started_again(cluster):
    cluster.start_all()
    cluster.launch(model_name="story")
    text = cluster.complete("story")["text"]
    events = []

    def long_answer():
        for event in cluster.stream("/v1/completions", dict(
                model="story", prompt="Once upon a time", max_tokens=450, ignore_eos=True)):
            events.append(event)
    t = threading.Thread(target=long_answer)
    t.start()
    wait_for("the stream began", lambda: len(events) > 3)
    (shard,) = cluster.shards()
    os.kill(shard, signal.SIGKILL)
    killed = time.monotonic()
    t.join(10)
    assert events[-1] == "[DONE]" and len(events) > 400  # it goes on there (test_continue.py)

    def answers():
        r = cluster.post("/v1/completions", dict(model="story", prompt="Once upon a time",
                                                 max_tokens=24, temperature=0))
        return r.status == 200 and r.json["choices"][0]["text"] == text
    wait_for("the model answers again", answers, 5)
    assert time.monotonic() - killed < 5
    assert cluster.shards() != [shard]


def test_restart_budget_ends_in_error(cluster):
    cluster.start_all()
    cluster.launch(model_name="story")
    end = time.monotonic() + 40

    def status():
        (m,) = cluster.get("/v1/models/instances?model_uid=story").json
        return m["status"]
    while status() != "ERROR" and time.monotonic() < end:
        for pid in cluster.shards():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    assert status() == "ERROR"
    (m,) = cluster.get("/v1/models/instances?model_uid=story").json
    assert "signal" in json.dumps(m).lower() or "killed" in json.dumps(m).lower()
    # The worker and the supervisor are fine: a new launch works.
    assert cluster.delete("/v1/models/story").status == 200
    cluster.launch(model_name="story")
    assert cluster.complete("story")["text"]


def test_supervisor_restart_adopts_running_models(cluster):
    sup = cluster.start_supervisor()
    cluster.start_worker()
    cluster.wait_workers(1)
    cluster.launch(model_name="story")
    text = cluster.complete("story")["text"]
    shards = cluster.shards()
    sup.kill()
    sup.wait()
    cluster.procs.remove(sup)
    cluster.start_supervisor()
    cluster.wait_workers(1)

    def answers():
        r = cluster.post("/v1/completions", dict(model="story", prompt="Once upon a time",
                                                 max_tokens=24, temperature=0))
        return r.status == 200 and r.json["choices"][0]["text"] == text
    wait_for("the adopted model answers", answers, 15)
    assert cluster.shards() == shards, "the shard must be adopted, not started again"


def test_two_clusters_side_by_side(cluster, tmp_path_factory):
    other = Cluster(tmp_path_factory.mktemp("other"))
    try:
        cluster.start_all()
        other.start_all()
        cluster.launch(model_name="story", model_uid="one")
        other.launch(model_name="story", model_uid="two")
        assert [m["id"] for m in cluster.get("/v1/models").json["data"]] == ["one"]
        assert [m["id"] for m in other.get("/v1/models").json["data"]] == ["two"]
        assert other.stop() == [0]
        assert processes_with(cluster.home)
        assert cluster.complete("one")["text"]
    finally:
        other.kill()
