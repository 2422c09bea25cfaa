"""The queue, beside graphile-worker, pg-boss and BullMQ on the same machine in the same run.

Rounds are interleaved: ours, then each peer, then ours again; medians are printed, and ratios of them.
Every peer is shown twice, as its documentation starts it and tuned, and the configuration is named. What
is missing (PostgreSQL, Redis, node, npm) is skipped, and said.

Ours: `gantry serve` over HTTP, 202 after the commit; claimed and finished over the protocol of remote
workers by tests/bench/queue_client.c. The peers run in a process of Node each (tests/bench/peers), on
servers of their own that listen on loopback: PostgreSQL, and Redis with its append-only file.
"""

import glob
import json
import os
import pwd
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import aims
import bench

HERE = os.path.dirname(os.path.abspath(__file__))
KEY = "bench-key-0123456789abcdef"
BODY = json.dumps({"agent": "noop", "input": "x" * 200})
CONFIG = ("worker: {lease: 10m}\nlimits: {queuedTasks: 3000000}\n"
          "lanes: {critical: {reserved: 1}, normal: {reserved: 64}, low: {reserved: 1}, shared: 0}\n")
SLOTS = {"critical": 0, "normal": 0, "low": 0, "shared": 1000}
ONE_N, ENQUEUE_N, LATENCY_N = 2000, 20000, 300
DRAIN1_N, DRAIN_N = 5000, 20000  # one by one; by many at a time, as many as the fast peers drain
PEERS = (("graphile", "default"), ("graphile", "tuned"), ("pgboss", "default"), ("pgboss", "tuned"),
         ("bullmq", "default"), ("bullmq", "tuned"))
NAMES = {
    ("graphile", "default"): "graphile-worker, 24 at a time, stock PostgreSQL",
    ("graphile", "tuned"): "graphile-worker, localQueue 500, completions batched, tuned PostgreSQL",
    ("pgboss", "default"): "pg-boss, fetch and complete by 1, 16 loops, stock PostgreSQL",
    ("pgboss", "tuned"): "pg-boss, fetch and complete by 1000, 2 loops, tuned PostgreSQL",
    ("bullmq", "default"): "BullMQ, 100 at a time, appendfsync everysec (a second may be lost)",
    ("bullmq", "tuned"): "BullMQ, 4 workers of 500, appendfsync always",
}
TUNED_PG = ("shared_buffers=1GB", "wal_buffers=64MB", "max_wal_size=8GB", "checkpoint_timeout=30min",
            "effective_io_concurrency=64", "autovacuum_naptime=5s")


# --- the disk ---

def fsync_rate(work, append):
    """4 KiB written and fdatasync'd a second: what one commit after another could reach."""
    path = os.path.join(work, "fsync")
    block = os.urandom(4096)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    if not append:
        os.write(fd, block * 4096)
        os.fsync(fd)
    n, at, until = 0, 0, time.monotonic() + 1
    while time.monotonic() < until:
        os.pwrite(fd, block, at)
        os.fdatasync(fd)
        at = at + 4096 if append else (at + 4096) % (4096 * 4096)
        n += 1
    os.close(fd)
    os.unlink(path)
    return n


# --- ours ---

class Ours:
    def __init__(self, gantry, work, data=None):
        self.gantry = gantry
        self.client = os.path.join(work, "queue_client")
        if not os.path.exists(self.client):
            subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", self.client, os.path.join(HERE, "queue_client.c")], check=True)
        self.server = bench.Server(gantry, work, "serve", env={"GANTRY_API_KEY": KEY}, config=CONFIG, data=data)
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.deploy(bench.agent_dir(work, "noop", bench.BUILTIN))
        self.worker = self.register()

    def deploy(self, directory):
        subprocess.run([self.gantry, "version", "create", directory, "--server", self.url, "--key", KEY],
                       check=True, capture_output=True)

    def call(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        status, answer = self.server.call(method, path, json.dumps(body) if body is not None else None, headers)
        if status >= 300:
            sys.exit(f"bench: {method} {path} answered {status}: {answer}")
        return json.loads(answer)

    def register(self):
        return self.call("POST", "/api/workers", {"name": "bench", "slots": SLOTS})["workerId"]

    def load(self, submit, work, count, batch=1, gap_ms=0, body=BODY, steps=0):
        """Runs the client; its figures, and CPU time of the server a task."""
        pid = self.server.process.pid
        before = bench.cpu_seconds(pid)
        out = subprocess.run([self.client, str(self.server.port), KEY, str(submit), str(work), self.worker,
                              str(batch), str(count), str(gap_ms), body, str(steps)], capture_output=True, text=True, check=False)
        if out.returncode:
            sys.exit("bench: " + out.stderr)
        got = json.loads(out.stdout)
        if got["errors"]:
            sys.exit(f"bench: {got['errors']} reports were refused")
        got["per_s"] = count / got["seconds"]
        got["cpu_us"] = (bench.cpu_seconds(pid) - before) / count * 1e6
        return got

    def idle(self):
        lanes = self.call("GET", "/api/queue")["lanes"]
        return all(lane["queued"] + lane["running"] == 0 for lane in lanes)

    def stop(self):
        self.server.stop()


def ours_round(gantry, work):
    ours = Ours(gantry, work)
    one = ours.load(1, 0, ONE_N)
    many = ours.load(64, 0, ENQUEUE_N)
    result = {"enqueue1": one["per_s"], "enqueue64": many["per_s"], "enqueue_cpu_us": many["cpu_us"],
              "enqueue64_p99_us": many["submit_p99_us"]}
    ours.load(64, 0, DRAIN1_N + DRAIN_N - ENQUEUE_N - ONE_N)
    drain1 = ours.load(0, 64, DRAIN1_N)
    drain = ours.load(0, 64, DRAIN_N, batch=50)
    result["drain1"], result["drain"] = drain1["per_s"], drain["per_s"]
    result["drain_cpu_us"] = drain["cpu_us"]
    both = ours.load(32, 32, ENQUEUE_N // 2, batch=50)
    result["flow"], result["flow_cpu_us"] = both["per_s"], both["cpu_us"]
    low = ours.load(1, 1, LATENCY_N, gap_ms=5)
    for member in ("start_p50_us", "start_p99_us", "end_p50_us", "end_p99_us"):
        result[member] = low[member]
    ours.stop()
    return result


# --- peers ---

class Postgres:
    """A cluster of its own in a temporary directory, which does not run as root."""

    def __init__(self, work, settings):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
        self.bin = os.path.dirname(found[-1])
        self.place = tempfile.mkdtemp(prefix="pg-", dir=work)
        self.become = []
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.place, owner.pw_uid, owner.pw_gid)
            self.become = ["runuser", "-u", "postgres", "--"]
        self.port = bench.free_port()
        data = os.path.join(self.place, "data")
        self.run(["initdb", "-D", data, "-A", "trust", "-U", "bench", "--no-instructions"])
        options = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.place}",
                   "max_connections=200", *settings]
        self.process = subprocess.Popen([*self.become, os.path.join(self.bin, "postgres"), "-D", data,
                                         *(a for o in options for a in ("-c", o))],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        for _ in range(200):
            ready = subprocess.run([os.path.join(self.bin, "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)],
                                   capture_output=True, check=False)
            if ready.returncode == 0:
                break
            time.sleep(0.1)
        self.url = f"postgres://bench@127.0.0.1:{self.port}/postgres"

    def run(self, command):
        subprocess.run([*self.become, os.path.join(self.bin, command[0]), *command[1:]], check=True,
                       capture_output=True, cwd="/")

    def stop(self):
        self.run(["pg_ctl", "-D", os.path.join(self.place, "data"), "stop", "-m", "fast"])
        self.process.wait(30)
        shutil.rmtree(self.place, ignore_errors=True)


class Redis:
    def __init__(self, work, fsync):
        self.place = tempfile.mkdtemp(prefix="redis-", dir=work)
        self.port = bench.free_port()
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        self.process = subprocess.Popen([program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.place,
                                         "--save", "", "--appendonly", "yes", "--appendfsync", fsync,
                                         "--maxmemory-policy", "noeviction"], stdout=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.05)
        self.url = f"redis://127.0.0.1:{self.port}"

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.place, ignore_errors=True)


def peers_missing(work):
    """Where the packages of the peers are, or why they are not; and which servers are missing."""
    if not (shutil.which("node") and shutil.which("npm")):
        return None, "node and npm are needed"
    place = os.path.join(work, "peers")
    shutil.copytree(os.path.join(HERE, "peers"), place, ignore=shutil.ignore_patterns("node_modules"))
    got = subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=place, capture_output=True,
                         text=True, check=False)
    return (place, None) if got.returncode == 0 else (None, "npm could not bring the packages")


def has_server(peer):
    if peer == "bullmq":
        return bool(shutil.which("redis-server") or shutil.which("valkey-server"))
    return bool(glob.glob("/usr/lib/postgresql/*/bin/initdb"))


def server_for(work, peer, mode):
    """A fresh one; None when there is no program for it."""
    if not has_server(peer):
        return None
    if peer == "bullmq":
        return Redis(work, "always" if mode == "tuned" else "everysec")
    return Postgres(work, TUNED_PG if mode == "tuned" else ())


def peer_round(work, place, peer, mode, seconds):
    server = server_for(work, peer, mode)
    if not server:
        return None
    drain_n = {"graphile": 20000 if mode == "tuned" else 5000, "pgboss": 10000 if mode == "tuned" else 3000, "bullmq": 20000}
    got = subprocess.run(["node", "peers.mjs", peer, mode, server.url, str(drain_n[peer]), str(seconds)], cwd=place,
                         capture_output=True, text=True, timeout=300, check=False)
    server.stop()
    if got.returncode:
        print(f"  {peer} {mode}: FAILED: {got.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(got.stdout)


# --- what is printed ---

def median_of(rounds, member):
    return statistics.median(r[member] for r in rounds)


def row(name, got):
    print(f"  {name:<76} {got['enqueue1']:>7.0f} {got['enqueue64']:>8.0f} {got['drain']:>8.0f}"
          f"   {got['start_p50_us'] / 1000:>7.2f} {got['start_p99_us'] / 1000:>7.2f}")


def medians(rounds):
    return {member: median_of(rounds, member) for member in rounds[0]}


def ratios(ours, peers):
    print("\n  Gantry / peer (more is better; latency: peer / Gantry)")
    for key, got in peers.items():
        print(f"  {NAMES[key]:<76} {ours['enqueue1'] / got['enqueue1']:>6.1f}x {ours['enqueue64'] / got['enqueue64']:>7.1f}x"
              f" {ours['drain'] / got['drain']:>7.1f}x   {got['start_p50_us'] / ours['start_p50_us']:>6.1f}x"
              f" {got['start_p99_us'] / ours['start_p99_us']:>6.1f}x")
        check(key, ours, got)


# How many times the peer's figure ours is to be.
DRAIN = {("graphile", "default"): 10, ("graphile", "tuned"): 2, ("pgboss", "default"): 10, ("bullmq", "tuned"): 6}
ENQUEUE = {("graphile", "tuned"): 20, ("pgboss", "tuned"): 20, ("bullmq", "tuned"): 2}
START_P50 = {("bullmq", "tuned"): 3}


def check(key, ours, got):
    if key in DRAIN:
        aims.at_least(f"queue: jobs drained, beside {NAMES[key]}", ours["drain"] / got["drain"], DRAIN[key])
    if key in ENQUEUE:
        aims.at_least(f"queue: submits of 64 clients, beside {NAMES[key]}", ours["enqueue64"] / got["enqueue64"], ENQUEUE[key])
    if key in START_P50:
        aims.at_least(f"queue: latency at low load, beside {NAMES[key]}", got["start_p50_us"] / ours["start_p50_us"], START_P50[key])


def compare(gantry, work, seconds, rounds):
    ours, peers, syncs = [], {}, []
    place, why = peers_missing(work)
    if why:
        print(f"  peers: SKIPPED, {why}")
    for _ in range(rounds):
        syncs.append((fsync_rate(work, False), fsync_rate(work, True)))
        ours.append(ours_round(gantry, work))
        for key in PEERS if place else ():
            got = peer_round(work, place, *key, seconds)
            if got:
                peers.setdefault(key, []).append(got)
        ours.append(ours_round(gantry, work))
    mine = medians(ours)
    print(f"  the disk: {statistics.median(s[0] for s in syncs):.0f} fdatasync/s over a written file,"
          f" {statistics.median(s[1] for s in syncs):.0f} while it grows")
    print(f"\n  {'jobs a second; latency in ms; median of the rounds':<76} {'1 call':>7} {'64 calls':>8} {'drain':>8}   {'p50':>7} {'p99':>7}")
    row("gantry serve, HTTP, 202 after the commit; claims of 50 by 64 connections", mine)
    for key in PEERS:
        if key in peers:
            row(NAMES[key], medians(peers[key]))
        elif key in DRAIN:
            aims.unmeasured(f"queue: beside {NAMES[key]}", "it is not here")
        if key not in peers and place and not has_server(key[0]):
            print(f"  {NAMES[key]}: SKIPPED, {'redis-server' if key[0] == 'bullmq' else 'postgresql'} is not here")
    print(f"  gantry: {mine['drain1']:.0f}/s claimed one by one and finished, {mine['flow']:.0f}/s submitted, claimed and"
          f" finished at once; CPU-us of the server: {mine['enqueue_cpu_us']:.0f} a submit, {mine['drain_cpu_us']:.0f}"
          f" a claim and finish, {mine['flow_cpu_us']:.0f} all; p99 of 64 submits {mine['enqueue64_p99_us'] / 1000:.1f} ms")
    print(f"  gantry: request to the kept end of a task that does nothing, at low load: p50 {mine['end_p50_us'] / 1000:.2f} ms,"
          f" p99 {mine['end_p99_us'] / 1000:.2f} ms")
    ratios(mine, {key: medians(peers[key]) for key in PEERS if key in peers})


# --- end to end, with a worker ---

SERVER_AGENT = "  runtime: server\n  url: \"http://127.0.0.1:{port}\"\n  prompt: prompt.md\n  model: sim/echo\n"


def end_to_end(gantry, work):
    bench.heading("queue, end to end: submitted by 32 connections, run by `gantry worker` with 64 slots, recorded")
    ours = Ours(gantry, work)
    peer = bench.Peer(work)
    agents = {"noop": "builtin, one model call to the simulator",
              "noop-server": "server, an agent that runs elsewhere answers POST /invocations",
              "noop-process": "process, /bin/true, a process a task"}
    ours.deploy(bench.agent_dir(work, "noop-server", SERVER_AGENT.format(port=peer.port)))
    ours.deploy(bench.agent_dir(work, "noop-process", bench.PROCESS))
    place = tempfile.mkdtemp(dir=work)
    config = os.path.join(place, "gantry.yaml")
    with open(config, "w", encoding="utf-8") as f:
        f.write(CONFIG + "tools: {allow: [\"127.0.0.0/8\"]}\n")
    worker = subprocess.Popen([gantry, "worker", "--server", ours.url, "--key", KEY, "--sim", "--config", config,
                               "--data", place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for agent, what in agents.items():
        body = json.dumps({"agent": agent, "input": "x"})
        count = 500 if agent == "noop-process" else 2000
        ours.load(4, 0, 50, body=body)
        until_idle(ours)
        before, began = bench.cpu_seconds(worker.pid), time.monotonic()
        ours.load(32, 0, count, body=body)
        until_idle(ours)
        took = time.monotonic() - began
        print(f"  {what:<64} {count / took:>7.0f} tasks/s, {(bench.cpu_seconds(worker.pid) - before) / count * 1e6:>6.0f} CPU-us of the worker")
    failed = ours.call("GET", "/api/tasks?status=failed&limit=1")["tasks"]
    if failed:
        print(f"  NOT ALL SUCCEEDED: {failed[0]}")
    worker.terminate()
    worker.wait(30)
    ours.stop()
    peer.stub.terminate()
    peer.stub.wait(10)


def until_idle(ours):
    deadline = time.monotonic() + 120
    while not ours.idle():
        if time.monotonic() > deadline:
            sys.exit("bench: tasks did not end")
        time.sleep(0.01)


# --- depth ---

def depth(gantry, work):
    bench.heading("queue, while so many tasks wait: 10,000 more submitted, claimed by 10 and finished")
    print(f"  {'waiting':>9} {'submit':>9} {'drain':>9} per second {'submit':>7} {'drain':>7} CPU-us of the server")
    ours = Ours(gantry, work)
    waiting, cpu_us = 0, []
    for target in (1000, 100000, 1000000):
        ours.load(64, 0, target - waiting)
        waiting = target
        put, got = ours.load(64, 0, 10000), ours.load(0, 32, 10000, batch=10)
        print(f"  {target:>9} {put['per_s']:>9.0f} {got['per_s']:>9.0f}            {put['cpu_us']:>7.0f} {got['cpu_us']:>7.0f}")
        cpu_us.append(put["cpu_us"] + got["cpu_us"])
    aims.at_most("queue: CPU of a task while 1,000,000 wait, beside 1,000", cpu_us[-1] / cpu_us[0], 1.3)
    ours.stop()


# --- history ---

OLD_TASKS = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
INSERT INTO task (id, state, lane, attempt, fence, created_at_ms, ready_at_ms, started_at_ms, finished_at_ms, agent, version_id)
SELECT CAST(printf('%016d', i) AS BLOB), 2, 1, 1, 0, :at, :at, :at, :at, 'noop', (SELECT id FROM version LIMIT 1) FROM n
"""
OLD_ATTEMPTS = ("INSERT INTO attempt (task_seq, attempt, fence, worker_id, started_at_ms, finished_at_ms, outcome)"
                " SELECT seq, 1, 0, zeroblob(16), :at, :at, 'succeeded' FROM task")
OLD_INPUTS = "INSERT INTO task_payload (seq, input) SELECT seq, :input FROM task"


def history(gantry, work):
    bench.heading("queue, beside 1,000,000 tasks that ended 40 days ago, which are deleted meanwhile (tasks.keep: 35d)")
    ours = Ours(gantry, work)
    base = (ours.load(64, 0, 20000), ours.load(0, 32, 20000, batch=10))
    ours.stop()
    ours = Ours(gantry, work)
    data = ours.server.data
    ours.stop()
    db = sqlite3.connect(os.path.join(data, "gantry.db"), isolation_level=None)
    values = {"at": int((time.time() - 40 * 86400) * 1000), "input": json.dumps("x" * 200)}
    for sql in ("BEGIN", OLD_TASKS, OLD_ATTEMPTS, OLD_INPUTS, "COMMIT"):
        db.execute(sql, values if ":" in sql else {})
    db.close()
    ours = Ours(gantry, work, data)
    deadline = time.monotonic() + 60
    while not purged(ours):  # or nothing would be deleted while the few tasks below run
        if time.monotonic() > deadline:
            sys.exit("bench: no old task is deleted")
        time.sleep(0.01)
    began, deleted = time.monotonic(), purged(ours)
    beside = (ours.load(64, 0, 20000), ours.load(0, 32, 20000, batch=10))
    rate = (purged(ours) - deleted) / (time.monotonic() - began)
    for name, put, got in (("no history", *base), ("beside them", *beside)):
        print(f"  {name:<12} submit {put['per_s']:>6.0f}/s, p99 {put['submit_p99_us'] / 1000:>5.1f} ms; claim and finish {got['per_s']:>6.0f}/s")
    print(f"  {rate:.0f} old tasks deleted a second meanwhile")
    ours.stop()


def purged(ours):
    status, text = ours.server.call("GET", "/metrics", None, {"Authorization": f"Bearer {KEY}"})
    found = [line for line in text.decode().splitlines() if line.startswith("gantry_tasks_purged_total ")]
    return float(found[0].split()[1]) if status == 200 and found else 0.0


def run(gantry, work, seconds, rounds):
    bench.heading("queue, beside others")
    compare(gantry, work, min(seconds, 2), rounds)
    end_to_end(gantry, work)
    depth(gantry, work)
    history(gantry, work)
