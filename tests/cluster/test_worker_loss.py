# SPDX-License-Identifier: Apache-2.0
"""A worker dies: its models wait for room and are not blamed for it."""
import os
import time

import pytest

from quire_cluster import Cluster, wait_for


@pytest.mark.parametrize("dies", ["head", "tail"])
def test_worker_death_is_not_counted_as_a_crash(tmp_path, dies):
    c = Cluster(tmp_path)
    c.start_supervisor()
    try:
        workers = [c.start_worker() for _ in range(3)]
        c.wait_workers(3)
        c.launch(model_name="story", model_uid="s3", n_worker=3)

        def answers():
            try:
                r = c.post("/v1/completions", dict(model="s3", prompt="Once", max_tokens=4),
                           timeout=2)
            except TimeoutError:  # it waits for the model to come back
                return False
            return r.status == 200

        def shard_pids():
            (m,) = c.get("/v1/models/instances?model_uid=s3").json
            return [s["pid"] for s in m["replica_statuses"][0]["shards"]]

        for _ in range(3):  # the whole budget of a minute
            os.kill(shard_pids()[1], 9)
            time.sleep(0.1)
            wait_for("the model answers again", answers, 20, 0.1)
        shard = shard_pids()[0 if dies == "head" else 2]
        with open(f"/proc/{shard}/stat", encoding="ascii") as f:
            parent = int(f.read().rsplit(")", 1)[1].split()[1])
        (victim,) = [w for w in workers if w.pid == parent]
        victim.kill()
        victim.wait()
        end = time.monotonic() + 7
        while time.monotonic() < end:
            assert not answers()
            time.sleep(0.1)
        (m,) = c.get("/v1/models/instances?model_uid=s3").json
        assert m["status"] != "ERROR", m["error_message"]
        c.start_worker()
        wait_for("the model is back on the new worker", answers, 20, 0.1)
    finally:
        c.kill()
