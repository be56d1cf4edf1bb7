#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed and size of Quire, measured, never asserted. Prints Markdown.

    tests/bench/bench.py engine --model FILE.gguf [--peer-bench PATH]   decode and prefill
    tests/bench/bench.py gateway                                       HTTP, start, memory, streams
    tests/bench/bench.py busy --model FILE.gguf                        one core taken by another process
    tests/bench/bench.py all --model FILE.gguf [--peer-bench PATH]

--peer-bench names a peer's benchmark program with llama-bench's options (-m -p -n -t -o json); it
runs in turn with ours, round by round, so that a drifting machine meets both. Ratios are of
medians. Build first: cmake --preset release && ninja -C build/release.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from quire_cluster import QUIRE, Cluster, processes_with, wait_for  # noqa: E402


def median(xs):
    return statistics.median(xs) if xs else float("nan")


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(c) for c in row) + " |")
    print()


# ---- engine against a peer --------------------------------------------------------------------

def ours(model, tests, threads):
    r = subprocess.run([QUIRE, "bench", "--model", model, "--tests", ",".join(tests),
                        "--threads", str(threads), "--rounds", "1", "--jsonl"],
                       capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in r.stdout.splitlines()]
    return {x["test"]: x["tokens_per_s"] for x in rows}


def peers(program, model, tests, threads):
    out = {}
    for test in tests:
        kind = ["-p", test[2:], "-n", "0"] if test.startswith("pp") else ["-p", "0", "-n", test[2:]]
        r = subprocess.run([program, "-m", model, *kind, "-t", str(threads), "-r", "1",
                            "-o", "json"], capture_output=True, text=True, check=True)
        out[test] = json.loads(r.stdout)[0]["avg_ts"]
    return out


def engine(args):
    print(f"## Engine: {pathlib.Path(args.model).name}, {args.threads} threads, "
          f"{args.rounds} alternating rounds\n")
    tests = args.tests.split(",")
    mine, theirs = [], []
    for _ in range(args.rounds):
        mine.append(ours(args.model, tests, args.threads))
        if args.peer_bench:
            theirs.append(peers(args.peer_bench, args.model, tests, args.threads))
    rows = []
    for test in tests:
        a = median([m[test] for m in mine])
        row = [test, f"{a:.1f}"]
        if theirs:
            b = median([t[test] for t in theirs])
            row += [f"{b:.1f}", f"{a / b:.2f}"]
        rows.append(row)
    table(["test", "quire tokens/s"] + (["peer tokens/s", "ratio"] if theirs else []), rows)


def busy(args):
    """Decode on all threads while another process takes one core, against one thread alone."""
    print(f"## Busy neighbour: {pathlib.Path(args.model).name}\n")
    alone, taken = [], []
    for _ in range(args.rounds):
        alone.append(ours(args.model, ["tg64"], 1)["tg64"])
        spin = subprocess.Popen([sys.executable, "-c",
                                 "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass"])
        try:
            taken.append(ours(args.model, ["tg64"], args.threads)["tg64"])
        finally:
            spin.kill()
            spin.wait()
    a, b = median(alone), median(taken)
    table(["1 thread alone", f"{args.threads} threads, one core taken", "ratio"],
          [[f"{a:.1f} tokens/s", f"{b:.1f} tokens/s", f"{b / a:.2f}"]])


# ---- the cluster --------------------------------------------------------------------------------

def rss_mb(pid):
    """Proportional memory: shared libraries are counted once over all processes."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def memory(c):
    return sum(rss_mb(p) for p in processes_with(c.home))


def start_time(home):
    c = Cluster(home)
    t0 = time.perf_counter()
    c.spawn("start", "-p", c.port)
    while True:
        try:
            if c.get("/v1/models", timeout=1).status == 200:
                break
        except OSError:
            time.sleep(0.002)
    return c, (time.perf_counter() - t0) * 1000


def launch_time(c, name):
    t0 = time.perf_counter()
    c.launch(model_name=name, model_uid=name, timeout=600)
    took = (time.perf_counter() - t0) * 1000
    return took


def one_token_latency(c, model, n=300):
    conn = http.client.HTTPConnection(c.host, c.port)
    conn.connect()
    conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = json.dumps(dict(model=model, prompt="Once", max_tokens=1, temperature=0))
    times = []
    for _ in range(n):
        t0 = time.perf_counter()
        conn.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        r = conn.getresponse()
        r.read()
        assert r.status == 200
        times.append((time.perf_counter() - t0) * 1000)
    conn.close()
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.99)]


def open_stream(c, body):
    s = socket.create_connection((c.host, c.port))
    data = json.dumps(dict(body, stream=True)).encode()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
              b"Content-Length: " + str(len(data)).encode() + b"\r\n\r\n" + data)
    return s


def idle_streams(c, model, n=1000):
    """Memory that n waiting streams cost in the supervisor."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    supervisor = c.procs[0].pid
    before = rss_mb(supervisor)
    socks = [open_stream(c, dict(model=model, prompt="Once", max_tokens=200, ignore_eos=True))
             for _ in range(n)]
    time.sleep(2)
    during = rss_mb(supervisor)
    for s in socks:
        s.close()
    return during - before


def streams(c, model, k, tokens=64):
    """k clients with 64-token prompts at once: new tokens a second, slowest first token."""
    words = " ".join(f"word{i}" for i in range(24))

    def one(i):
        body = dict(model=model, prompt=f"{i} {words}", max_tokens=tokens, temperature=0,
                    ignore_eos=True)
        t0 = time.perf_counter()
        first = None
        for event in c.stream("/v1/completions", body):
            if first is None:
                first = time.perf_counter() - t0
        return first
    t0 = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(k) as pool:
        firsts = list(pool.map(one, range(k)))
    return k * tokens / (time.perf_counter() - t0), max(firsts) * 1000


def one_prefill(c, model):
    """The prompts of 16 clients as one prompt: what computing them takes at least."""
    words = " ".join(f"word{i}" for i in range(24))
    body = dict(model=model, prompt=" ".join(f"{i} {words}" for i in range(16)), max_tokens=1,
                temperature=0)
    t0 = time.perf_counter()
    assert c.post("/v1/completions", body).status == 200
    return (time.perf_counter() - t0) * 1000


def gateway(args):
    print("## Cluster and gateway\n")
    rows = []
    starts = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as home:
            c, ms = start_time(home)
            starts.append(ms)
            c.kill()
    rows.append(["`quire start` to `/v1/models`", f"{median(starts):.0f} ms", "300 ms"])
    home = pathlib.Path(os.environ.get("QUIRE_BENCH_HOME", "build/test-home")).resolve()
    home.mkdir(parents=True, exist_ok=True)
    for state in home.glob("state.db*"):
        state.unlink()  # what ran last time is no wish of this time
    c, _ = start_time(home)
    try:
        c.wait_workers(1)
        time.sleep(1)
        rows.append(["supervisor + worker idle (Pss)", f"{memory(c):.0f} MB", "60 MB"])
        times = []
        for _ in range(3):
            times.append(launch_time(c, "story"))
            p50, p99 = one_token_latency(c, "story")
            c.delete("/v1/models/story")
            wait_for("the shard is gone", lambda: not c.shards())
        rows.append(["launch `story`", f"{median(times):.0f} ms", "300 ms"])
        c.launch(model_name="story", model_uid="story")
        p50, p99 = one_token_latency(c, "story")
        rows.append(["1-token request on a kept connection, `story`: p50 / p99, engine included",
                     f"{p50:.2f} / {p99:.2f} ms", "2 ms + engine"])
        alone = ours(QUIRE.parent / "share/models/story-Q8_0.gguf", ["pp2"], 2)["pp2"]
        rows.append(["- of this the engine alone (`quire bench`, 2 prompt tokens)",
                     f"{2000 / alone:.2f} ms", ""])
        rows.append(["1,000 waiting streams in the supervisor",
                     f"{idle_streams(c, 'story'):.0f} MB", "100 MB"])
        c.delete("/v1/models/story")
        c.launch(model_name="smollm2", model_uid="smollm2", timeout=600)
        times = []
        for _ in range(3):
            c.delete("/v1/models/smollm2")
            wait_for("the shard is gone", lambda: not c.shards())
            times.append(launch_time(c, "smollm2"))
        rows.append(["launch `smollm2`, warm", f"{median(times):.0f} ms", "1000 ms"])
        c.complete("smollm2", "Hello", max_tokens=8)
        rows.append(["all processes with `smollm2` (Pss)", f"{memory(c):.0f} MB", "250 MB"])
        one, many, firsts, least = [], [], [], []
        for _ in range(3):
            one.append(streams(c, "smollm2", 1)[0])
            rate, first = streams(c, "smollm2", 16)
            many.append(rate)
            firsts.append(first)
            least.append(one_prefill(c, "smollm2"))
        rows.append(["`smollm2`, 1 stream", f"{median(one):.0f} tokens/s", ""])
        rows.append(["`smollm2`, 16 streams together", f"{median(many):.0f} tokens/s",
                     "2 x one stream"])
        rows.append(["ratio", f"{median(many) / median(one):.2f}", "2"])
        rows.append(["slowest first token of 16", f"{median(firsts):.0f} ms", "prefill + 100 ms"])
        rows.append(["- prefilling all 16 prompts as one", f"{median(least):.0f} ms", ""])
    finally:
        c.kill()
    table(["figure", "measured", "aim"], rows)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("what", choices=["engine", "gateway", "busy", "all"])
    p.add_argument("--model", help="GGUF file for the engine comparison")
    p.add_argument("--peer-bench", help="a peer's bench program")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--tests", default="pp512,tg64")
    args = p.parse_args()
    if args.what != "gateway" and not args.model:
        p.error("--model is needed")
    if args.what in ("engine", "all"):
        engine(args)
    if args.what in ("busy", "all"):
        busy(args)
    if args.what in ("gateway", "all"):
        gateway(args)


if __name__ == "__main__":
    main()
