#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a model takes to be ready, and what it holds in memory.

    tests/bench/load.py --model FILE.gguf [--rounds N] [--ctx N]

Every round launches the model three times in a fresh cluster: packed anew without files, packed
anew with files (which are then written in the background), and from the files. Times are from
the request to the answer that it is ready, with the model's file and the packed files in the
page cache. Memory is that of the shard: most at once until ready (VmHWM), after an answer
(VmRSS), and beside it what the weights and the KV cache need.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from quire_cluster import Cluster, wait_for  # noqa: E402


def status_mb(pid, key):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines()
                if line.startswith(key + ":"))


def launch(c, args, mode):
    start = time.monotonic()
    body = dict(model_engine="quire", model_path=args.model, model_name="m", model_uid="m",
                n_ctx=args.ctx, n_parallel=1, pack_cache=mode)
    r = c.post("/v1/models?wait_ready=false", body)
    assert r.status == 200, r.body

    def ready():
        found = c.get("/v1/models/instances?model_uid=m").json
        return bool(found) and found[0].get("status") == "READY"
    wait_for("the model is ready", ready, 120, 0.002)
    seconds = time.monotonic() - start
    start = time.monotonic()
    c.complete("m", "Once upon a time", max_tokens=1)
    (pid,) = c.shards()
    return pid, dict(ready=seconds, first=time.monotonic() - start,
                     peak=status_mb(pid, "VmHWM"), rss=status_mb(pid, "VmRSS"))


def end(c):
    c.delete("/v1/models/m")
    wait_for("the shard is gone", lambda: not c.shards())


def kept(folder):
    names = [p.name for p in folder.glob("*")]
    return any(n.startswith("output.") for n in names) and not any(n.endswith(".tmp")
                                                                   for n in names)


def one_round(args, folder, results):
    with tempfile.TemporaryDirectory() as home:
        c = Cluster(home)
        try:
            c.start_all()
            shutil.rmtree(folder, ignore_errors=True)
            with open(args.model, "rb") as f:
                while f.read(1 << 24):
                    pass
            results.setdefault("packed, no files", []).append(launch(c, args, "off")[1])
            end(c)
            pid, found = launch(c, args, "on")
            start = time.monotonic()
            wait_for("the files are written", lambda: kept(folder), 300)
            time.sleep(0.5)
            found.update(written=time.monotonic() - start - 0.5, rss=status_mb(pid, "VmRSS"))
            results.setdefault("packed, files written", []).append(found)
            end(c)
            results.setdefault("from files", []).append(launch(c, args, "on")[1])
            end(c)
        finally:
            c.kill()
            shutil.rmtree(folder, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--ctx", type=int, default=4096)
    args = p.parse_args()
    args.model = os.path.realpath(args.model)
    folder = pathlib.Path(args.model + ".qpack")
    if folder.exists():
        sys.exit(f"{folder} is there already: it would be overwritten; remove it first")
    results = {}
    for _ in range(args.rounds):
        one_round(args, folder, results)
    print("| launch | ready s | first token s | peak MB | resident MB | files after s |")
    print("|---|---|---|---|---|---|")
    for what, rows in results.items():
        def mid(key):
            return statistics.median(r[key] for r in rows if key in r)
        written = f"{mid('written'):.1f}" if "written" in rows[0] else ""
        print(f"| {what} | {mid('ready'):.2f} | {mid('first'):.2f} | {mid('peak'):.0f} | "
              f"{mid('rss'):.0f} | {written} |")


if __name__ == "__main__":
    main()
