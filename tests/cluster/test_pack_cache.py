# SPDX-License-Identifier: Apache-2.0
"""Packed weights in files beside the model: shared by shards and replicas, off when asked."""
import os
import pathlib
import shutil

import pytest

from quire_cluster import ROOT, Cluster, wait_for

STORY = ROOT / "share/models/story-Q8_0.gguf"
N_UNITS = 5  # four layers and the output


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    c = Cluster(tmp_path_factory.mktemp("pack"))
    c.start_supervisor()
    c.start_worker()
    c.start_worker()
    c.wait_workers(2)
    yield c
    c.kill()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    shutil.copy(STORY, path)
    return path


def files(model):
    return sorted(p.name for p in pathlib.Path(f"{model}.qpack").glob("*"))


def complete(folder):
    names = files(folder)
    return len(names) == N_UNITS and all(n.endswith(".qpack") for n in names)


def maps(c, model):
    """How many shards have all their weights from files."""
    def from_files(pid):
        text = pathlib.Path(f"/proc/{pid}/maps").read_text()
        return f"{model}.qpack/" in text
    return sum(from_files(pid) for pid in c.shards())


def run(c, model, uid, **options):
    c.launch(model_path=str(model), model_name=uid, model_uid=uid, **options)
    return c.complete(uid)["text"]


def end(c, *uids):
    for uid in uids:
        assert c.delete(f"/v1/models/{uid}").status == 200
    wait_for("all shards are gone", lambda: not c.shards())


def test_split_shards_and_replicas_share_one_cache(two_workers, model):
    c = two_workers
    plain = run(c, model, "plain", pack_cache="off")
    end(c, "plain")
    assert not pathlib.Path(f"{model}.qpack").exists()
    # Two processes pack half of the layers each, at once.
    assert run(c, model, "split", pack_cache="on", n_worker=2) == plain
    wait_for("both halves are kept", lambda: complete(model))
    end(c, "split")
    # Whole replicas map what the halves left.
    assert run(c, model, "twin", pack_cache="verify", replica=2) == plain
    assert maps(c, model) == 2
    assert c.complete("twin", "The dog")["text"] == c.complete("twin", "The dog")["text"]
    end(c, "twin")


def test_a_worker_switches_it_off(tmp_path, model):
    c = Cluster(tmp_path, env={"QUIRE_PACK_CACHE": "on"})
    try:
        c.start_supervisor()
        c.start_worker("--pack-cache", "off")
        c.wait_workers(1)
        run(c, model, "quiet")
        end(c, "quiet")
        assert not pathlib.Path(f"{model}.qpack").exists()
        run(c, model, "loud", pack_cache="on")  # a launch knows better
        wait_for("the weights are kept", lambda: complete(model))
        end(c, "loud")
    finally:
        c.kill()


def test_command_line(tmp_path, model):
    c = Cluster(tmp_path, env={"QUIRE_PACK_CACHE": "on"})
    try:
        c.start_all()
        r = c.cli("launch", "--model-path", model, "--model-uid", "m", "--pack-cache", "off")
        assert r.returncode == 0, r.stderr
        end(c, "m")
        assert not pathlib.Path(f"{model}.qpack").exists()
        # Without the option the environment of the worker decides.
        r = c.cli("launch", "--model-path", model, "--model-uid", "m")
        assert r.returncode == 0, r.stderr
        wait_for("the weights are kept", lambda: complete(model))
        end(c, "m")
        r = c.cli("launch", "--model-path", model, "--model-uid", "m", "--pack-cache", "maybe")
        assert r.returncode != 0 and "verify" in r.stderr
        shutil.rmtree(f"{model}.qpack")
        r = c.cli("bench", "--model", model, "--tests", "load", "--rounds", "1", "--pack-cache",
                  "off")
        assert r.returncode == 0, r.stderr
        assert not pathlib.Path(f"{model}.qpack").exists()
    finally:
        c.kill()


def test_a_killed_shard_leaves_no_harm(two_workers, model):
    c = two_workers
    text = run(c, model, "dies", pack_cache="on")
    os.kill(c.shards()[0], 9)

    def again():
        r = c.post("/v1/completions", dict(model="dies", prompt="Once upon a time",
                                           max_tokens=24, temperature=0))
        return r.status == 200 and r.json["choices"][0]["text"] == text
    wait_for("the model answers again", again, 15)
    wait_for("the weights are kept", lambda: complete(model))
    end(c, "dies")
