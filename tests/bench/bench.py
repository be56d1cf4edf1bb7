#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed and size of Quire beside its peers, measured, never asserted. Prints Markdown.

    tests/bench/bench.py ROW[,ROW...] --model FILE.gguf [--peer 'NAME=DIR [OPTIONS]']...
    tests/bench/bench.py all --model FILE.gguf --peer 'llama.cpp=DIR' --peer 'ik -rtr=DIR -rtr 1'
    tests/bench/bench.py report FILE...
    tests/bench/bench.py gateway

Rows: decode, pp512, pp16, streams (2, 8, 16 together), depth (after 4,096 positions), load
(process start to one token), firstload (without the packed cache), memory (resident while decoding
at a context of 4,096), busy (one of the cores taken by another process); all: every one of them.
gateway measures HTTP, start and memory of a cluster.

DIR holds a peer's llama-bench and llama-batched-bench; OPTIONS go to both (streams: -npp and -ntg
set the tokens of a stream, for big models). Engines take turns,
round by round, so that a drifting machine meets all of them; Quire's own bench measures the
machine's read bandwidth and int8 peak in each round. Figures are medians, ratios are of medians.
--save FILE appends what was measured, so that rounds may be spread over time; report prints the
tables of such files. Build first: cmake --preset release && ninja -C build/release.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import resource
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from quire_cluster import QUIRE, Cluster, processes_with, wait_for  # noqa: E402

OURS = "Quire"
DEPTH = "tg32@d4096"
TESTS = {"decode": ["tg64"], "pp512": ["pp512"], "pp16": ["pp16"], "streams": ["b2", "b8", "b16"],
         "depth": [DEPTH], "load": ["load"], "firstload": ["firstload"], "memory": ["memory"],
         "busy": ["busy"]}
TITLES = {"tg64": "decode, 1 stream", "b2": "2 streams", "b8": "8 streams", "b16": "16 streams",
          DEPTH: "decode at depth 4096", "load": "load to one token",
          "firstload": "load without the packed cache", "memory": "resident memory",
          "busy": "decode, one core taken", "tg64@1": "decode, 1 thread"}
UNITS = {"load": "s", "firstload": "s", "memory": "MB"}


def median(xs):
    return statistics.median(xs) if xs else float("nan")


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(c) for c in row) + " |")
    print()


# ---- one engine, one test ---------------------------------------------------------------------

def run(*args, **kw):
    r = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kw)
    if r.returncode:
        sys.exit(f"{' '.join(map(str, args))}:\n{r.stderr[-2000:]}")
    return r


def seconds(*args, **kw):
    t0 = time.perf_counter()
    run(*args, **kw)
    return time.perf_counter() - t0


def resident_mb(args, env=None):
    """Memory in RAM in the second half of a program's life, pages of mapped files included."""
    p = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, env=env)
    samples = []
    while p.poll() is None:
        try:
            for line in pathlib.Path(f"/proc/{p.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    samples.append(int(line.split()[1]) / 1024)
        except OSError:
            pass
        time.sleep(0.02)
    return median(samples[len(samples) // 2:])


def taken_core():
    return subprocess.Popen([sys.executable, "-c",
                             "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass"])


class Quire:
    name = OURS

    def __init__(self, threads):
        self.threads = threads

    def bench(self, model, tests, threads=None, extra=()):
        r = run(QUIRE, "bench", "--model", model, "--tests", ",".join(tests), "--threads",
                threads or self.threads, "--rounds", 1, "--jsonl", *extra)
        return [json.loads(line) for line in r.stdout.splitlines()]

    def measure(self, model, tests):
        out = []
        plain = [t for t in tests if t not in UNITS and t not in ("busy", "tg64@1")]
        if plain:
            for x in self.bench(model, plain):
                out.append(dict(test=x["test"], value=x["tokens_per_s"],
                                percent=x["percent_of_limit"], read=x["limit_read_gb_s"],
                                int8=x["limit_int8_gop_s"]))
        if "busy" in tests:
            x = self.bench(model, ["tg64"], 1)[0]
            out.append(dict(test="tg64@1", value=x["tokens_per_s"]))
            spin = taken_core()
            try:
                x = self.bench(model, ["tg64"])[0]
            finally:
                spin.kill()
                spin.wait()
            out.append(dict(test="busy", value=x["tokens_per_s"]))
        if "load" in tests:
            ask = json.dumps(dict(tokens=[1]))
            out.append(dict(test="load", value=seconds(
                QUIRE, "logits", "--model", model, "--threads", self.threads, "--jsonl",
                input=ask)))
        if "firstload" in tests:
            x = self.bench(model, ["load"], extra=("--pack-cache", "off"))[0]
            out.append(dict(test="firstload", value=x["seconds"]))
        if "memory" in tests:
            out.append(dict(test="memory", value=resident_mb(
                [QUIRE, "bench", "--model", model, "--tests", "tg16@d4080", "--threads",
                 self.threads, "--rounds", 1])))
        return out


class Peer:
    """A program family with llama-bench's options."""

    def __init__(self, text, threads):
        self.name, _, rest = text.partition("=")
        words = shlex.split(rest)
        if not words:
            sys.exit(f"--peer {text}: NAME=DIR [OPTIONS]")
        self.folder, self.options = pathlib.Path(words[0]).resolve(), words[1:]
        self.threads = threads
        self.program = self.folder / "llama-bench"
        self.batched = self.folder / "llama-batched-bench"
        help_text = subprocess.run([self.program, "--help"], capture_output=True, text=True).stdout
        self.has_depth = "-d," in help_text or "--n-depth" in help_text

    def bench(self, model, prompt=0, gen=0, more=(), repeat=1):
        r = run(self.program, "-m", model, "-p", prompt, "-n", gen, "-t", self.threads, "-r",
                repeat, "-o", "json", *more, *self.options)
        return json.loads(r.stdout[r.stdout.index("["):])[-1]["avg_ts"]

    def streams(self, model, counts):
        options = list(self.options)
        if "-rtr" in options:  # a switch here, an option with a value in llama-bench
            del options[options.index("-rtr") + 1]
        for o in ("-npp", "-ntg"):  # lists: what is given twice runs twice
            if o not in options:
                options += [o, "64"]
        r = run(self.batched, "-m", pathlib.Path(model).resolve(), "-t", self.threads, "-c",
                max(counts) * 160, "-npl", ",".join(map(str, counts)), *options,
                cwd=tempfile.gettempdir())  # it leaves a log
        out = {}
        for line in (r.stdout + r.stderr).splitlines():
            cells = [c.strip() for c in line[line.find("|"):].strip("|").split("|")]
            if len(cells) == 10 and cells[0].isdigit():
                out[int(cells[2])] = float(cells[7])
        return out

    def one(self, model, test):
        if test in ("tg64", "tg64@1", "busy"):
            return self.bench(model, gen=64)
        if test == DEPTH:
            if self.has_depth:
                return self.bench(model, gen=32, more=("-d", 4096))
            return self.bench(model, more=("-gp", "4096,32"))
        if test.startswith("pp"):
            return self.bench(model, prompt=int(test[2:]), repeat=5 if int(test[2:]) < 64 else 1)
        if test == "load":
            return seconds(self.program, "-m", model, "-p", 0, "-n", 1, "-r", 1, "-t",
                           self.threads, *self.options)
        if test == "memory":
            return resident_mb([self.program, "-m", model, "-t", self.threads, "-r", 1,
                                *(("-p", 0, "-n", 16, "-d", 4080) if self.has_depth
                                  else ("-p", 0, "-n", 0, "-gp", "4080,16")), *self.options])
        return None

    def measure(self, model, tests):
        out = []
        counts = [int(t[1:]) for t in tests if t[0] == "b" and t[1:].isdigit()]
        if counts:
            out += [dict(test=f"b{k}", value=v) for k, v in self.streams(model, counts).items()]
        for test in tests:
            if test[0] == "b" and test[1:].isdigit() or test == "firstload":
                continue
            spin = taken_core() if test == "busy" else None
            try:
                out.append(dict(test=test, value=self.one(model, test)))
            finally:
                if spin:
                    spin.kill()
                    spin.wait()
        return out


# ---- rounds and tables --------------------------------------------------------------------------

def engines(args):
    tests = [t for row in args.rows for t in TESTS[row]]
    all_engines = [Quire(args.threads)] + [Peer(p, args.threads) for p in args.peer]
    records = []
    for _ in range(args.rounds):
        for engine in all_engines:
            new = [dict(x, engine=engine.name, model=pathlib.Path(args.model).stem,
                        threads=args.threads) for x in engine.measure(args.model, tests)]
            records += new
            if args.save:
                with open(args.save, "a", encoding="utf-8") as f:
                    f.writelines(json.dumps(x) + "\n" for x in new)
    return records


def cell(test, value):
    unit = UNITS.get(test)
    if unit == "s":
        return f"{value:.2f} s"
    return f"{value:.0f} MB" if unit else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def tables(records):
    names = []
    for x in records:
        if x["engine"] not in names and x["engine"] != OURS:
            names.append(x["engine"])
    header = ["model", "work", "rounds", OURS, "% of limit", *names, "ratio to the best peer"]
    order = [t for row in TESTS.values() for t in row]
    order.insert(order.index("busy"), "tg64@1")
    rows = []
    for model in dict.fromkeys(x["model"] for x in records):
        mine = [x for x in records if x["model"] == model]
        for test in order:
            values = {n: [x["value"] for x in mine if x["test"] == test and x["engine"] == n]
                      for n in [OURS, *names]}
            ours = values.pop(OURS)
            if not ours:
                continue
            a = median(ours)
            best = [median(v) for v in values.values() if v]
            ratio = ""
            if best:
                ratio = f"{min(best) / a:.2f}" if test in UNITS else f"{a / max(best):.2f}"
            percent = [x["percent"] for x in mine if x["test"] == test and "percent" in x]
            rows.append([model, TITLES.get(test, test), len(ours), cell(test, a),
                         f"{median(percent):.0f} %" if percent else "",
                         *(cell(test, median(v)) if v else "" for v in values.values()), ratio])
        one = median([x["value"] for x in mine if x["test"] == "tg64@1"])
        busy = median([x["value"] for x in mine if x["test"] == "busy" and x["engine"] == OURS])
        if busy == busy:
            rows.append([model, "- against one thread alone", "", f"{busy / one:.2f}", "",
                         *[""] * len(names), ""])
    table(header, rows)
    reads = [x["read"] for x in records if "read" in x]
    if reads:
        ops = [x["int8"] for x in records if "int8" in x]
        print(f"Read bandwidth beside the rounds: median {median(reads):.1f} GB/s, "
              f"{min(reads):.1f} to {max(reads):.1f}; int8 peak {median(ops):.0f} Gop/s.\n")


def report(args):
    records = []
    for name in args.files:
        with open(name, encoding="utf-8") as f:
            records += [json.loads(line) for line in f]
    tables(records)


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
        story = QUIRE.parent / "share/models/story-Q8_0.gguf"
        alone = Quire(2).bench(story, ["pp2"])[0]["tokens_per_s"]
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
    p.add_argument("what", help="rows separated by commas, all, report or gateway")
    p.add_argument("files", nargs="*", help="for report: files written by --save")
    p.add_argument("--model", help="GGUF file")
    p.add_argument("--peer", action="append", default=[], metavar="NAME=DIR [OPTIONS]",
                   help="folder of a peer's llama-bench and llama-batched-bench")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--save", help="append what is measured to this file")
    args = p.parse_args()
    if args.what == "gateway":
        return gateway(args)
    if args.what == "report":
        return report(args)
    args.rows = list(TESTS) if args.what == "all" else args.what.split(",")
    unknown = [r for r in args.rows if r not in TESTS]
    if unknown or args.files or not args.model:
        p.error(f"unknown: {unknown + args.files}" if unknown or args.files
                else "--model is needed")
    tables(engines(args))
    return None


if __name__ == "__main__":
    main()
