#!/usr/bin/env python3
"""A control plane and two workers under load with faults, for a quarter of an hour; memory must stay flat.

Load: tasks of a builtin agent (model calls to a stub) and of a process agent, some with idempotency keys,
sessions, webhooks; waits, lists, event streams that are dropped, cancels. Faults: the stub answers
500, 429 and nonsense, cuts answers and resets connections; the receiver of webhooks fails one in five;
agents fail and hang; one worker is killed with SIGKILL again and again, and started anew; in the first
third the server is, too, at random moments; now and then the disk takes 20 to 200 ms longer for a sync.

Sampled each second: resident memory and descriptors of the server and of the worker that lives, the log
of the database, its file. The run fails when the median of the last third is above that of the middle
third (the server lives on from the one to the other) by more than a tenth and a little, when the log has
outgrown its bound, when a task that was acknowledged is lost, has not ended or has two results, or when
the database is not sound afterwards.
"""

import argparse
import collections
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socketserver
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402  pylint: disable=wrong-import-position

KEY = "soak-key-0123456789abcdef"
HERE = os.path.dirname(os.path.abspath(__file__))
WAL_MAX_MIB = 160  # it is checkpointed from 64 MiB on; a burst between two looks comes on top
SLOW_EVERY_S, SLOW_FOR_S = 60, 12  # the disk
SLACK = {"rss": 6.0, "descriptors": 16, "wal": 24.0}  # MiB, descriptors: noise of small numbers

AGENTS = {
    "talk": "  runtime: builtin\n  prompt: prompt.md\n  model: soak-model\n  limits: {secondsPerTask: 20}\n"
            "  retry: {maxAttempts: 3, backoff: {initial: 100ms, factor: 2, max: 1s}}\n",
    "prog": "  runtime: process\n  command: [/bin/sh, agent.sh]\n  code: .\n  model: soak-model\n"
            "  limits: {secondsPerTask: 10}\n  retry: {maxAttempts: 3, backoff: {initial: 100ms, factor: 2, max: 1s}}\n",
}
PROGRAM = """case $(( $(od -An -N2 -tu2 /dev/urandom) % 20 )) in
0) exit 75 ;;
1) exit 3 ;;
2) sleep 2 ;;
esac
echo said something >&2
echo '{"ok": true}'
"""


class Stub(http.server.BaseHTTPRequestHandler):
    """The provider and the receiver of webhooks."""
    protocol_version = "HTTP/1.1"
    counts = collections.Counter()

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drop(self, some=b""):
        self.wfile.write(some)
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chance = random.random()
        if self.path == "/hook":
            Stub.counts["webhooks"] += 1
            self.answer(500 if chance < 0.2 else 200, b"{}")
            return
        Stub.counts["model calls"] += 1
        if chance < 0.04:
            self.answer(500, b'{"error": {"message": "no"}}')
        elif chance < 0.07:
            self.answer(429, b'{"error": {"message": "slow"}}', [("Retry-After", "1")])
        elif chance < 0.09:
            self.drop()
        elif chance < 0.11:
            self.drop(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{\"id\":")
        elif chance < 0.12:
            self.answer(200, b"nonsense")
        else:
            message = {"role": "assistant", "content": "word " * random.randint(1, 200)}
            self.answer(200, json.dumps({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "soak-model",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}}).encode())


class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


def call(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Load(threading.Thread):
    """One client that does a bit of everything until it is told to stop."""

    def __init__(self, soak, seed):
        super().__init__(daemon=True)
        self.soak, self.random = soak, random.Random(seed)

    def run(self):
        while not self.soak.over.is_set():
            if self.soak.quiet.is_set():
                time.sleep(0.1)
                continue
            try:
                self.once()
            except (OSError, http.client.HTTPException) as error:  # of a server that was killed, too
                self.soak.counts[f"client: {type(error).__name__}"] += 1
            time.sleep(self.random.random() * self.soak.pause)

    def once(self):
        draw, soak = self.random, self.soak
        body = {"agent": draw.choice(["talk", "talk", "prog"]), "input": "x" * draw.randint(1, 4000),
                "priority": draw.choice(["critical", "normal", "low"])}
        if draw.random() < 0.3:
            body["sessionId"] = f"s{draw.randint(1, 200)}"
        if draw.random() < 0.2:
            body["webhookUrl"] = f"http://127.0.0.1:{soak.stub_port}/hook"
        headers = {"Idempotency-Key": f"k{draw.random()}"} if draw.random() < 0.3 else {}
        status, answer = call(soak.port, "POST", "/agent/execute", body, headers)
        soak.counts[f"submit {status}"] += 1
        if status != 202:
            return
        task = json.loads(answer)["taskId"]
        soak.accepted.add(task)
        chance = draw.random()
        if headers and chance < 0.5:
            call(soak.port, "POST", "/agent/execute", body, headers)
        elif chance < 0.1:
            call(soak.port, "GET", f"/agent/tasks/{task}?wait=5s")
        elif chance < 0.15:
            call(soak.port, "POST", f"/api/tasks/{task}/cancel", {})
        elif chance < 0.2:
            call(soak.port, "GET", "/api/tasks?limit=50")
        elif chance < 0.25:
            self.drop_stream(task)
        elif chance < 0.3:
            call(soak.port, "GET", draw.choice(["/metrics", "/api/queue", "/api/spend?by=agent", f"/api/tasks/{task}/timeline"]))

    def drop_stream(self, task):
        connection = http.client.HTTPConnection("127.0.0.1", self.soak.port, timeout=60)
        connection.request("GET", f"/api/tasks/{task}/events", headers={"Authorization": f"Bearer {KEY}"})
        connection.sock.recv(100)
        connection.close()


class Soak:
    def __init__(self, gantry, work, seconds, clients, pause):
        self.gantry, self.work, self.seconds, self.clients, self.pause = gantry, work, seconds, clients, pause
        self.over, self.quiet = threading.Event(), threading.Event()
        self.workers = {}
        self.counts = collections.Counter()
        self.samples = []
        self.accepted = set()
        self.slow = os.path.join(work, "slow")
        self.stub = Threads(("127.0.0.1", 0), Stub)
        self.stub_port = self.stub.server_address[1]
        threading.Thread(target=self.stub.serve_forever, daemon=True).start()
        self.config = ("lanes: {critical: {reserved: 2}, normal: {reserved: 2}, low: {reserved: 2}, shared: 10}\n"
                       "worker: {lease: 8s}\n"
                       f"providers:\n  stub: {{protocol: openai, baseUrl: \"http://127.0.0.1:{self.stub_port}/v1\",\n"
                       "    price: {inputUsdPerMillion: \"0.15\", outputUsdPerMillion: \"0.6\"}}\n"
                       "models:\n  - {match: \"*\", provider: stub}\n"
                       "webhooks: {allow: [\"127.0.0.0/8\"]}\n")
        shim = os.path.join(work, "slow_sync.so")
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", shim, os.path.join(HERE, "slow_sync.c")], check=True)
        self.env = {"GANTRY_API_KEY": KEY, "LD_PRELOAD": shim, "SLOW_SYNC_FILE": self.slow}
        self.server = bench.Server(gantry, work, "serve", env=self.env, config=self.config)
        self.port = self.server.port

    def deploy(self):
        for name, spec in AGENTS.items():
            directory = bench.agent_dir(self.work, name, spec)
            with open(os.path.join(directory, "agent.sh"), "w", encoding="utf-8") as f:
                f.write(PROGRAM)
            subprocess.run([self.gantry, "version", "create", directory, "--server", f"http://127.0.0.1:{self.port}",
                            "--key", KEY], check=True, capture_output=True)

    def start_worker(self, name):
        place = os.path.join(self.work, name)
        os.makedirs(place, exist_ok=True)
        config = os.path.join(place, "gantry.yaml")
        with open(config, "w", encoding="utf-8") as f:
            f.write(self.config)
        log = open(os.path.join(place, "log"), "a", encoding="utf-8")
        with log:
            command = [self.gantry, "worker", "--server", f"http://127.0.0.1:{self.port}", "--key", KEY, "--config", config,
                       "--data", place]
            self.workers[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def restart(self):
        self.server.process.kill()
        self.server.process.wait()
        self.server = bench.Server(self.gantry, self.work, "serve", env=self.env, config=self.config, data=self.server.data,
                                   port=self.port)
        self.counts["servers killed"] += 1

    def disk(self, at_s):
        """Slow for some seconds of each minute."""
        slow = at_s % SLOW_EVERY_S > SLOW_EVERY_S - SLOW_FOR_S
        if slow == os.path.exists(self.slow):
            return
        if slow:
            with open(self.slow + ".new", "w", encoding="utf-8") as f:
                f.write(str(random.randint(20, 200)))
            os.rename(self.slow + ".new", self.slow)
            self.counts["times the disk was slow"] += 1
        else:
            os.remove(self.slow)

    def fill(self, count):
        """A history, so that caches are full when the measuring begins."""
        client = os.path.join(self.work, "queue_client")
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", client, os.path.join(HERE, "queue_client.c")], check=True)
        slots = {"critical": 0, "normal": 0, "low": 0, "shared": 1000}
        worker = json.loads(call(self.port, "POST", "/api/workers", {"name": "fill", "slots": slots})[1])["workerId"]
        body = json.dumps({"agent": "talk", "input": "x" * 2000})
        for left in range(count, 0, -500):
            subprocess.run([client, str(self.port), KEY, "16", "16", worker, "20", str(min(left, 500)), "0", body],
                           check=True, stdout=subprocess.DEVNULL)
            call(self.port, "POST", f"/api/workers/{worker}/heartbeat", {"tasks": []})
        call(self.port, "POST", f"/api/workers/{worker}/leave", {})

    def sample(self, steady):
        wal = os.path.join(self.server.data, "gantry.db-wal")
        self.samples.append({
            "server rss": bench.rss_mib(self.server.process.pid), "worker rss": bench.rss_mib(steady.pid),
            "server descriptors": len(os.listdir(f"/proc/{self.server.process.pid}/fd")),
            "worker descriptors": len(os.listdir(f"/proc/{steady.pid}/fd")),
            "wal": os.path.getsize(wal) / 2**20 if os.path.exists(wal) else 0,
            "database": os.path.getsize(os.path.join(self.server.data, "gantry.db")) / 2**20})

    def start_workers(self):
        self.start_worker("steady")
        self.start_worker("victim")

    def stop_workers(self):
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)

    def warm_up(self):
        """The server that was started last has empty caches."""
        self.disk(0)
        self.quiet.set()
        self.drain()
        self.stop_workers()
        self.fill(30000)
        self.start_workers()
        self.quiet.clear()

    def kill_all(self):
        for process in (self.server.process, *self.workers.values()):
            if process.poll() is None:
                process.kill()
                process.wait()

    def run(self, kill_every_s, server_every_s):
        self.deploy()
        self.fill(30000)
        self.start_workers()
        for i in range(self.clients):
            Load(self, i).start()
        began = killed = time.monotonic()
        server_at, killing = began + random.random() * 2 * server_every_s, True
        while time.monotonic() - began < self.seconds:
            time.sleep(1)
            if self.server.process.poll() is not None or self.workers["steady"].poll() is not None:
                sys.exit("soak: the server or a worker has ended by itself")
            self.sample(self.workers["steady"])
            at_s = time.monotonic() - began
            self.disk(at_s)
            if killing and at_s > self.seconds / 3:
                killing = False
                self.warm_up()
            if killing and time.monotonic() > server_at:
                self.restart()
                server_at = time.monotonic() + random.random() * 2 * server_every_s
            if time.monotonic() - killed > kill_every_s:
                self.workers["victim"].kill()
                self.workers["victim"].wait()
                self.start_worker("victim")
                killed = time.monotonic()
                self.counts["workers killed"] += 1
            if len(self.samples) % 60 == 0:
                print("  " + ", ".join(f"{k} {v:.0f}" for k, v in self.samples[-1].items()), flush=True)
        self.over.set()
        self.disk(0)
        unended = self.drain()
        self.stop_workers()
        self.server.stop()
        return unended

    def drain(self):
        for _ in range(1200):
            lanes = json.loads(call(self.port, "GET", "/api/queue")[1])["lanes"]
            left = sum(lane["queued"] + lane["running"] for lane in lanes)
            if left == 0:
                return 0
            time.sleep(0.1)
        return left


def judge(samples):
    """Prints the thirds; whether each is flat."""
    n = len(samples) // 3
    thirds = [samples[i * n:(i + 1) * n] for i in range(3)]
    flat = True
    for name in samples[0]:
        first, middle, last = (statistics.median(s[name] for s in third) for third in thirds)
        most = max(s[name] for s in samples)
        slack = SLACK.get(name.split()[-1])
        ok = slack is None or last <= middle * 1.1 + slack
        if name == "wal":
            ok = ok and most <= WAL_MAX_MIB
        flat = flat and ok
        print(f"  {name:<20} {first:>8.1f} {middle:>8.1f} {last:>8.1f}   most {most:>8.1f}  {'' if ok else 'GROWS'}")
    return flat


def sound(data, accepted):
    """What the database says of itself, how many tasks there are in which state, how many of those that were acknowledged are
    lost, and how many have more than one result."""
    db = sqlite3.connect(f"file:{os.path.join(data, 'gantry.db')}?mode=ro", uri=True)
    answer = db.execute("PRAGMA quick_check").fetchone()[0]
    states = dict(db.execute("SELECT state, count(*) FROM task GROUP BY state").fetchall())
    there = {row[0] for row in db.execute("SELECT id FROM task")}
    lost = sum(uuid.UUID(task).bytes not in there for task in accepted)
    doubled = db.execute("SELECT count(*) FROM (SELECT 1 FROM attempt WHERE outcome = 'succeeded' GROUP BY task_seq"
                         " HAVING count(*) > 1)").fetchone()[0]
    db.close()
    return answer, states, lost, doubled


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.4, help="of a client between two tasks, at most, in seconds")
    parser.add_argument("--kill-every", type=float, default=20, help="seconds between two kills of a worker")
    parser.add_argument("--kill-server-every", type=float, default=15, help="seconds between two kills of the server, on average")
    args = parser.parse_args()
    if not shutil.which("cc"):
        sys.exit("soak: a C compiler is needed")
    gantry = os.path.abspath(os.environ.get("GANTRY", "build/gantry"))
    with tempfile.TemporaryDirectory(prefix="gantry-soak-", ignore_cleanup_errors=True) as work:
        os.chmod(work, 0o755)
        soak = Soak(gantry, work, args.minutes * 60, args.clients, args.pause)
        try:
            unended = soak.run(args.kill_every, args.kill_server_every)
        finally:
            soak.kill_all()
        print(f"\n  median of thirds of {len(soak.samples)} s (MiB, descriptors)")
        ok = judge(soak.samples)
        answer, states, lost, doubled = sound(soak.server.data, soak.accepted)
        print(f"  {dict(soak.counts)}, {dict(Stub.counts)}")
        print(f"  tasks by state {states}, not ended {unended}; database: {answer}")
        print(f"  acknowledged {len(soak.accepted)}, lost {lost}, with two results {doubled}")
    if not ok or unended or lost or doubled or answer != "ok":
        sys.exit("soak: FAILED")
    print("soak: flat")


if __name__ == "__main__":
    main()
