# SPDX-License-Identifier: Apache-2.0
"""Real Quire processes for tests: start, talk, kill, and prove that nothing is left behind."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUIRE = pathlib.Path(os.environ.get("QUIRE_BIN", ROOT / "build/release/quire"))


def data_dir():
    """Folder with the test data that is not part of the project, or None."""
    for d in (os.environ.get("QUIRE_TEST_DATA"), ROOT.parent / "shared/data"):
        if d and pathlib.Path(d).is_dir():
            return pathlib.Path(d)
    return None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, check, seconds=10.0, pause=0.02):
    """Poll until check() is true; its last value comes back, a time-out names `what`."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)


def processes_with(text):
    """pids whose environment names this QUIRE_HOME: everything that a cluster started."""
    found = []
    for p in pathlib.Path("/proc").iterdir():
        if p.name.isdigit() and int(p.name) != os.getpid():
            try:
                if f"QUIRE_HOME={text}\0".encode() in (p / "environ").read_bytes() + b"\0":
                    state = (p / "stat").read_text().rsplit(")", 1)[1].split()[0]
                    if state != "Z":
                        found.append(int(p.name))
            except OSError:
                pass
    return found


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Cluster:
    """One supervisor with workers, each a process, in one home folder."""

    def __init__(self, home, port=None, env=None, host="127.0.0.1", prefix=()):
        self.home, self.host = str(home), host
        self.port = port or free_port()
        self.env = dict(os.environ, QUIRE_HOME=self.home, **(env or {}))
        self.env.pop("QUIRE_ENDPOINT", None)
        self.procs = []
        self.logs = []

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.port}"

    def spawn(self, *args, prefix=(), home=None):
        log = open(pathlib.Path(self.home) / f"log-{len(self.procs)}.txt", "wb+")
        env = self.env if home is None else dict(self.env, QUIRE_HOME=str(home))
        proc = subprocess.Popen([*prefix, str(QUIRE), *map(str, args)], env=env,
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                start_new_session=True)
        self.procs.append(proc)
        self.logs.append(log)
        return proc

    def start_all(self):
        """quire start: supervisor and one worker."""
        proc = self.spawn("start", "-p", self.port)
        self.wait_workers(1)
        return proc

    def start_supervisor(self, *extra, prefix=()):
        proc = self.spawn("supervisor", "-H", self.host, "-p", self.port, *extra, prefix=prefix)
        self.wait_http(prefix)
        return proc

    def start_worker(self, *extra, prefix=()):
        return self.spawn("worker", "-e", self.endpoint, *extra, prefix=prefix)

    def wait_http(self, prefix=()):
        def up():
            try:
                return self.get("/status").status == 200
            except OSError:
                self.fail_if_dead()
                return False
        wait_for("the supervisor answers", up)

    def fail_if_dead(self):
        for i, p in enumerate(self.procs):
            if p.poll() is not None:
                raise AssertionError(f"process {p.args} ended with {p.returncode}:\n{self.log(i)}")

    def log(self, i):
        self.logs[i].flush()
        return pathlib.Path(self.logs[i].name).read_text(errors="replace")

    def wait_workers(self, n, seconds=15):
        def enough():
            try:
                info = self.get("/v1/cluster/info").json
            except OSError:
                self.fail_if_dead()
                return False
            return sum(1 for x in info if x["node_type"] == "Worker") >= n
        wait_for(f"{n} workers joined", enough, seconds)

    # -- HTTP -------------------------------------------------------------------------------

    def request(self, method, path, body=None, headers=None, timeout=60):
        conn = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = None
            headers = dict(headers or {})
            if body is not None:
                data = body if isinstance(body, (bytes, str)) else json.dumps(body)
                headers.setdefault("Content-Type", "application/json")
            conn.request(method, path, data, headers)
            r = conn.getresponse()
            return Response(r.status, dict(r.getheaders()), r.read())
        finally:
            conn.close()

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def delete(self, path, **kw):
        return self.request("DELETE", path, **kw)

    def launch(self, timeout=120, **fields):
        fields.setdefault("model_engine", "quire")
        r = self.post("/v1/models", fields, timeout=timeout)
        assert r.status == 200, r.body
        return r.json["model_uid"]

    def complete(self, uid, prompt="Once upon a time", max_tokens=24, **kw):
        body = dict(model=uid, prompt=prompt, max_tokens=max_tokens, temperature=0, **kw)
        r = self.post("/v1/completions", body)
        assert r.status == 200, r.body
        return r.json["choices"][0]

    def stream(self, path, body, timeout=60):
        """Events of a streaming POST as dicts; "[DONE]" as that string."""
        conn = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            conn.request("POST", path, json.dumps(dict(body, stream=True)),
                         {"Content-Type": "application/json"})
            r = conn.getresponse()
            assert r.status == 200, r.read()
            for line in r:
                line = line.strip()
                if line.startswith(b"data:"):
                    text = line[5:].strip()
                    yield "[DONE]" if text == b"[DONE]" else json.loads(text)
        finally:
            conn.close()

    def cli(self, *args, input=None, timeout=120):
        """A quire command against this cluster."""
        return subprocess.run([str(QUIRE), *map(str, args)], input=input, capture_output=True,
                              text=True, timeout=timeout,
                              env=dict(self.env, QUIRE_ENDPOINT=self.endpoint))

    # -- processes ----------------------------------------------------------------------------

    def shards(self):
        """pids of shard processes of this cluster."""
        found = []
        for pid in processes_with(self.home):
            try:
                argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(argv) > 1 and argv[1] == b"shard":
                found.append(pid)
        return found

    def stop(self):
        """SIGTERM to all; everything must be gone within 5 s, nothing may be left over."""
        start = time.monotonic()
        for p in self.procs:
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        codes = [p.wait(timeout=10) for p in self.procs]
        took = time.monotonic() - start
        left = processes_with(self.home)
        self.kill()
        assert not left, f"left over after SIGTERM: {left}"
        assert took < 5.5, f"stopping took {took:.1f} s"
        return codes

    def kill(self):
        for p in self.procs:
            if p.poll() is None:
                p.kill()
                p.wait()
        for pid in processes_with(self.home):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        for log in self.logs:
            log.close()
