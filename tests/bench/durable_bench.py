"""Durable steps and single jobs, beside Restate and DBOS on the same machine in the same run.

Rounds are interleaved: ours, each peer, ours again; medians are printed, and ratios of them. What is missing
(node, npm, a package that npm could not bring, PostgreSQL) is skipped, and said.

A job does nothing. A run has five steps; each is kept on disk before the next begins, and its result is 200
bytes. Everything that is acknowledged has been synced, on all sides.

Ours, twice. Over the protocol of workers: `gantry serve`, a job submitted (202 after the commit), claimed by one,
its steps recorded one by one (POST .../journal) and its end reported, each a request of its own
(tests/bench/queue_client.c). And whole: `gantry dev`, an agent in Node (peers-durable/durable.mjs), whose step is a
model call to the simulator through the task's gateway, which records the answer with its cost before it is given.
Restate: one server, as it comes, and the handlers in Node; called over HTTP by tests/bench/peer.c, request to result.
DBOS: a process of Node on a PostgreSQL as it comes; workflows started and awaited in that process.
"""

import http.client
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import aims
import bench
import queue_bench

STEPS, FLIGHTS = 5, 64
JOBS, RUNS, AGENT_RUNS, LATENCY_N, GAP_MS = 8000, 3000, 1000, 200, 5
AGENT = "  runtime: server\n  command: [node, durable.mjs, gantry]\n  code: .\n  model: sim/echo\n"
AGENT_CONFIG = ("limits: {queuedTasks: 3000000}\n"
                f"lanes: {{critical: {{reserved: 1}}, normal: {{reserved: {FLIGHTS}}}, low: {{reserved: 1}}, shared: 0}}\n")


def percentiles(took, name):
    took = sorted(took)
    return {f"{name}_p50_us": statistics.median(took) * 1e6, f"{name}_p99_us": took[int(len(took) * 0.99)] * 1e6}


def paced(once, name):
    """once(), one after another with a gap."""
    took = []
    for i in range(-LATENCY_N // 8, LATENCY_N):
        began = time.monotonic()
        once()
        if i >= 0:
            took.append(time.monotonic() - began)
        time.sleep(GAP_MS / 1000)
    return percentiles(took, name)


class Caller:
    """One connection that is kept."""

    def __init__(self, port, headers):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"Content-Type": "application/json", **headers}

    def call(self, method, path, body=None):
        self.connection.request(method, path, body, self.headers)
        response = self.connection.getresponse()
        answer = response.read()
        if response.status not in (200, 201, 202):
            raise RuntimeError(f"{method} {path} answered {response.status}: {answer[:300]}")
        return json.loads(answer)


class Program:
    """A process of ours or of others, ended by its id."""

    def __init__(self, command, cwd, log, env=None):
        self.log = open(log, "w+", encoding="utf-8")
        self.process = subprocess.Popen(command, cwd=cwd, env={**os.environ, "NODE_ENV": "production", **(env or {})},
                                        stdout=self.log, stderr=self.log)

    def wait_until(self, ready, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if ready():
                return
            time.sleep(0.02)
        raise RuntimeError("did not become ready: " + self.said()[-300:])

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(15)
        self.log.close()


def handlers(place, work, port):
    """durable.mjs as Restate's endpoint."""
    program = Program(["node", "durable.mjs", "restate", str(port)], place, os.path.join(work, "handlers.log"),
                      {"RESTATE_LOGGING": "ERROR"})
    try:
        program.wait_until(lambda: "ready" in program.said())
    except RuntimeError:
        program.stop()
        raise
    return program


# --- ours ---

def protocol_round(gantry, work):
    ours = queue_bench.Ours(gantry, work)
    ours.load(FLIGHTS // 2, FLIGHTS // 2, 1000)
    jobs = ours.load(FLIGHTS, FLIGHTS, JOBS)
    ours.load(FLIGHTS, 0, JOBS)
    drain = ours.load(0, FLIGHTS, JOBS)
    runs = ours.load(FLIGHTS, FLIGHTS, RUNS, steps=STEPS)
    one = ours.load(1, 1, LATENCY_N, gap_ms=GAP_MS)
    five = ours.load(1, 1, LATENCY_N, gap_ms=GAP_MS, steps=STEPS)
    ours.stop()
    return {"none": jobs["per_s"], "none_cpu_us": jobs["cpu_us"], "queued": drain["per_s"],
            "five": runs["per_s"], "five_cpu_us": runs["cpu_us"], "five_server_us": runs["cpu_us"],
            "none_p50_us": one["end_p50_us"], "none_p99_us": one["end_p99_us"],
            "five_p50_us": five["end_p50_us"], "five_p99_us": five["end_p99_us"]}


class Dev(queue_bench.Ours):
    """`gantry dev` with an agent that it starts and keeps warm."""

    def __init__(self, gantry, work):
        self.gantry, self.worker = gantry, "none"
        self.client = os.path.join(work, "queue_client")
        target = bench.agent_dir(work, "steps", AGENT)
        shutil.copy(os.path.join(queue_bench.HERE, "peers-durable", "durable.mjs"), target)
        self.server = bench.Server(gantry, work, "dev", [target], env={"GANTRY_API_KEY": queue_bench.KEY},
                                   config=AGENT_CONFIG + bench.GOVERNED)
        self.url = f"http://127.0.0.1:{self.server.port}"
        caller = Caller(self.server.port, {"Authorization": f"Bearer {queue_bench.KEY}"})
        self.caller, self.body = caller, json.dumps({"agent": "steps", "input": "x" * 200})

    def wait_deployed(self):
        deadline = time.monotonic() + 10
        while not self.caller.call("GET", "/api/agents")["agents"]:
            if time.monotonic() > deadline:
                raise RuntimeError("the agent was not deployed")
            time.sleep(0.02)

    def once(self):
        task = self.caller.call("POST", "/agent/execute", self.body)["taskId"]
        task = self.caller.call("GET", f"/agent/tasks/{task}?wait=30s")
        if task["status"] != "succeeded":
            raise RuntimeError(f"a task ended {task['status']}: {task.get('error')}")


    def cpu(self):
        """Of the server, and of the agent below it."""
        pid = self.server.process.pid
        agents = sum(bench.cpu_seconds(child) for child in bench.children(pid))
        return bench.cpu_seconds(pid) - agents, agents


def agent_round(gantry, work):
    dev = Dev(gantry, work)
    try:
        dev.wait_deployed()
        dev.once()
        low = paced(dev.once, "five")
        dev.load(FLIGHTS, 0, FLIGHTS, body=dev.body)
        queue_bench.until_idle(dev)
        before, began = dev.cpu(), time.monotonic()
        dev.load(FLIGHTS, 0, AGENT_RUNS, body=dev.body)
        queue_bench.until_idle(dev)
        took = time.monotonic() - began
        server, agent = (b - a for a, b in zip(before, dev.cpu()))
        failed = dev.call("GET", "/api/tasks?status=failed&limit=1")["tasks"]
        if failed:
            raise RuntimeError(f"not all succeeded: {failed[0]}")
    finally:
        dev.stop()
    return {"five": AGENT_RUNS / took, "five_cpu_us": (server + agent) / AGENT_RUNS * 1e6,
            "five_server_us": server / AGENT_RUNS * 1e6, **low}


# --- peers ---

def packages(work):
    """Where they are, or why they are not."""
    if not (shutil.which("node") and shutil.which("npm")):
        return None, "node and npm are needed"
    place = os.path.join(work, "peers-durable")
    shutil.copytree(os.path.join(queue_bench.HERE, "peers-durable"), place, ignore=shutil.ignore_patterns("node_modules"))
    got = subprocess.run(["npm", "ci", "--ignore-scripts", "--silent", "--no-audit", "--no-fund"], cwd=place,
                         capture_output=True, text=True, check=False)
    return place, None if got.returncode == 0 else "npm could not bring the packages"


class Restate:
    """One server with its defaults, on loopback, and the handlers registered with it."""

    def __init__(self, place, work):
        self.ingress, admin, node, endpoint = (bench.free_port() for _ in range(4))
        self.data = tempfile.mkdtemp(prefix="restate-", dir=work)
        self.handlers = handlers(place, work, endpoint)
        self.server = Program([os.path.join(place, "node_modules", ".bin", "restate-server"), "--no-logo", "--listen-mode", "tcp",
                               "--base-dir", self.data], place, os.path.join(work, "restate-server.log"),
                              {"RESTATE_DISABLE_TELEMETRY": "true", "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
                               "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self.ingress}",
                               "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}"})
        try:
            self.server.wait_until(lambda: answers(admin, "/health") and answers(self.ingress, "/restate/health"))
            Caller(admin, {}).call("POST", "/deployments", json.dumps({"uri": f"http://127.0.0.1:{endpoint}"}))
            self.caller = Caller(self.ingress, {})
            self.caller.call("POST", "/job/five", "{}")
        except (RuntimeError, OSError):
            self.stop()
            raise

    def load(self, peer, handler, seconds):
        """Requests a second, each until its result, and CPU of server and handlers a request."""
        before = []
        got = peer.load(([self.ingress], f"/job/{handler}", []), self.server.process.pid, FLIGHTS, seconds,
                        json.dumps({"input": "x" * 200}), 1.0,
                        lambda: before.append(bench.cpu_seconds(self.handlers.process.pid)))
        if got["errors"]:
            raise RuntimeError(f"{got['errors']} calls failed")
        cpu = got["cpu"] + bench.cpu_seconds(self.handlers.process.pid) - before[0]
        return {handler: got["requests"] / got["seconds"], f"{handler}_cpu_us": cpu / got["requests"] * 1e6,
                f"{handler}_server_us": got["cpu"] / got["requests"] * 1e6}

    def stop(self):
        self.server.stop()
        self.handlers.stop()
        shutil.rmtree(self.data, ignore_errors=True)


def answers(port, path):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False


def restate_round(place, work, peer, seconds):
    restate = Restate(place, work)
    try:
        got = {**restate.load(peer, "none", seconds), **restate.load(peer, "five", seconds)}
        for handler in ("none", "five"):
            got.update(paced(lambda h=handler: restate.caller.call("POST", f"/job/{h}", "{}"), handler))
        return got
    finally:
        restate.stop()


def dbos_round(place, work, seconds):
    if not queue_bench.has_server("dbos"):
        raise RuntimeError("postgresql is not here")
    server = queue_bench.Postgres(work, ())
    try:
        got = subprocess.run(["node", "durable.mjs", "dbos", server.url, str(seconds)], cwd=place, capture_output=True,
                             text=True, timeout=120, check=False)
    finally:
        server.stop()
    if got.returncode:
        raise RuntimeError("FAILED: " + got.stderr.strip()[-300:])
    return json.loads(got.stdout.splitlines()[-1])


# --- what is printed ---

NAMES = {"protocol": "gantry serve, worker protocol: each step and the end a request, 64 submit, 64 work",
         "agent": "gantry dev, an agent in Node: each step a model call through its gateway, 64 slots",
         "restate": "Restate 1.7 as it comes, handlers in Node, ctx.run: request to result, 64 calls",
         "dbos": "DBOS 5 on PostgreSQL as it comes, in Node, runStep: start to result, 64 in flight"}
COLUMNS = (("none", 1, 8), ("queued", 1, 8), ("five", 1, 8), ("none_cpu_us", 1, 8), ("five_cpu_us", 1, 8), ("five_server_us", 1, 8),
           ("none_p50_us", 1000, 7), ("none_p99_us", 1000, 7), ("five_p50_us", 1000, 7), ("five_p99_us", 1000, 7))


def cell(got, member, divisor, width):
    if member not in got:
        return f"{'-':>{width}}"
    return f"{got[member] / divisor:>{width}.{0 if divisor == 1 else 2}f}"


def table(found):
    print(f"\n  {'a second; CPU-us of server and handlers, of the server alone; ms at low load; medians':<86} {'jobs':>8} {'queued':>8}"
          f" {'runs':>8} {'CPU job':>8} {'CPU run':>8} {'server':>8} {'job p50':>7} {'p99':>7} {'run p50':>7} {'p99':>7}")
    for name, got in found.items():
        print(f"  {NAMES[name]:<86} " + " ".join(cell(got, *column) for column in COLUMNS))
        print(f"  {'':<86} {'':>8} {'':>8} {got['five'] * STEPS:>8.0f} steps a second")


# (what, ours, member, peer, its member, how many times it)
AIMS = (("jobs submitted, run and ended, 64 at a time", "protocol", "none", "restate", "none", 10),
        ("jobs submitted, run and ended, 64 at a time", "protocol", "none", "dbos", "none", 10),
        ("jobs that waited in a queue, taken one by one and ended", "protocol", "queued", "dbos", "queued", 10),
        ("runs of five steps over the worker protocol", "protocol", "five", "restate", "five", 5),
        ("runs of five steps of an agent in Node", "agent", "five", "restate", "five", 5))


def check(found, why):
    for what, ours, member, peer, theirs, times in AIMS:
        text = f"durable: {what}, beside {peer}"
        if ours in found and peer in found:
            aims.at_least(text, found[ours][member] / found[peer][theirs], times)
        else:
            aims.unmeasured(text, why.get(peer) or why.get(ours) or "it is not here")


def ratios(found):
    print("\n  Gantry / peer (more is better; CPU and latency: peer / Gantry)")
    for peer in ("restate", "dbos"):
        for ours in ("protocol", "agent"):
            if peer not in found or ours not in found:
                continue
            parts = []
            for member in ("none", "queued", "five"):
                if member in found[ours] and member in found[peer]:
                    parts.append(f"{member} {found[ours][member] / found[peer][member]:.1f}x")
            for member in ("none_cpu_us", "five_cpu_us", "none_p50_us", "none_p99_us", "five_p50_us", "five_p99_us"):
                if member in found[ours] and member in found[peer]:
                    parts.append(f"{member.replace('_us', '')} {found[peer][member] / found[ours][member]:.1f}x")
            print(f"  {ours + ' / ' + peer:<20} {', '.join(parts)}")


def run(gantry, work, seconds, rounds):
    bench.heading("single jobs and durable runs of five steps, beside others")
    seconds = min(seconds, 3)
    rows, why = {}, {}
    place, missing = packages(work)
    node = bool(shutil.which("node"))
    if missing:
        print(f"  peers: SKIPPED, {missing}")
        why.update(restate=missing, dbos=missing)
    if not node:
        print("  an agent in Node: SKIPPED, node is not here")
        why["agent"] = "node is not here"
    peer = bench.Peer(work)

    def turn(name, measure, *args):
        if name in why:
            return
        try:
            rows.setdefault(name, []).append(measure(*args))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            why[name] = str(error)
            print(f"  {NAMES[name]}: SKIPPED, {error}")

    for _ in range(rounds):
        turn("protocol", protocol_round, gantry, work)
        turn("agent", agent_round, gantry, work)
        turn("restate", restate_round, place, work, peer, seconds)
        turn("dbos", dbos_round, place, work, seconds)
        turn("agent", agent_round, gantry, work)
        turn("protocol", protocol_round, gantry, work)
    peer.stub.terminate()
    peer.stub.wait(10)
    found = {name: queue_bench.medians(rows[name]) for name in NAMES if rows.get(name)}
    table(found)
    ratios(found)
    check(found, why)
