#!/usr/bin/env python3
"""Measures Gantry beside peers in one run: figures are for this machine and this moment, ratios travel.

  startup   start to /readyz, idle memory, size of the stripped program
  latency   a no-op task through the API in dev mode, from submit to result, one at a time
  submit    POST /agent/execute, durable before 202, at a control plane without a worker
  gateway   POST /v1/chat/completions through tasks' gateways to a stub, with everything on that governs
            (caps, budgets, limits, durable records and journal): 1, 10 and 100 kB, answers whole and
            streamed, the stub at once and after 60 ms, 1,000 and 5,000 open streams; beside the stub
            itself, nginx as plain reverse proxy, and Portkey's gateway where npm can bring it
  lanes     what a claim costs while 1,000, 100,000 and 1,000,000 tasks wait; waits of people beside
            100,000 low tasks, of a quiet tenant beside one that floods
  queue     durable enqueue over HTTP, claim and finish, no-op tasks end to end, latency at low load, beside
            graphile-worker, pg-boss and BullMQ (default and tuned), and beside the disk's fsync rate; the
            same while 1,000, 100,000 and 1,000,000 tasks wait, and while 1,000,000 old ones are deleted
  durable   single jobs, and runs of five steps that are each kept before the next, beside Restate and DBOS

CPU-us a request (a streamed event) is what the server's processes used (user + system, /proc/PID/stat) by
the requests answered. submit needs wrk, gateway a C compiler and nginx; a part is skipped without them.
queue and durable need a C compiler; their peers PostgreSQL, Redis or Valkey, node and npm (Restate's server is a
download of 80 MB).
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import aims

MODEL = "bench-model"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pid):
    """CPU time of the process and its children that live (nginx has workers): by their clocks, since
    the ticks of /proc/PID/stat are 10 ms, a tenth of what some measure."""
    return sum(time.clock_gettime((~child << 3) | 2) for child in [pid] + children(pid))


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(c) for c in f.read().split()]
    except FileNotFoundError:
        return []


def rss_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Server:
    """A gantry process on a free port, ended by SIGTERM."""

    def __init__(self, gantry, work, verb, args=(), env=None, config=None, data=None, port=None):
        self.port = port or free_port()
        self.data = data or tempfile.mkdtemp(dir=work)
        command = [gantry, verb, "--port", str(self.port), "--data", self.data]
        if config:
            path = os.path.join(self.data, "gantry.yaml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(config)
            command += ["--config", path]
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith(("OPENAI_", "ANTHROPIC_", "GANTRY_"))}
        self.log = open(os.path.join(self.data, "log"), "w+", encoding="utf-8")
        began = time.monotonic()
        self.process = subprocess.Popen(command + list(args), env={**clean, **(env or {})}, cwd=self.data,
                                        stdout=self.log, stderr=self.log)
        self.ready_ms = self.wait_ready(began)

    def wait_ready(self, began):
        while time.monotonic() - began < 20:
            if self.process.poll() is not None:
                break
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return (time.monotonic() - began) * 1000
            except OSError:
                pass
            time.sleep(0.001)
        self.log.seek(0)
        sys.exit("bench: the server did not become ready:\n" + self.log.read())

    def call(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


def agent_dir(work, name, spec):
    path = os.path.join(work, name)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "agent.yaml"), "w", encoding="utf-8") as f:
        f.write(f"apiVersion: gantry/v1\nkind: Agent\nmetadata: {{name: {name}}}\nspec:\n{spec}")
    with open(os.path.join(path, "prompt.md"), "w", encoding="utf-8") as f:
        f.write("Answer.\n")
    return path


BUILTIN = "  runtime: builtin\n  prompt: prompt.md\n  model: sim/echo\n"
PROCESS = "  runtime: process\n  command: [/bin/true]\n  code: .\n  model: sim/echo\n"


def heading(text):
    print(f"\n{text}")


def bench_startup(gantry, work):
    heading("startup")
    ready, rss = [], []
    for _ in range(7):
        server = Server(gantry, work, "dev")
        ready.append(server.ready_ms)
        time.sleep(0.3)
        rss.append(rss_mib(server.process.pid))
        server.stop()
    stripped = os.path.join(work, "stripped")
    shutil.copy(gantry, stripped)
    subprocess.run(["strip", stripped], check=True)
    print(f"  start to /readyz    median {statistics.median(ready):.1f} ms  (max {max(ready):.1f}; aim < 100)")
    print(f"  idle memory         median {statistics.median(rss):.1f} MiB  (max {max(rss):.1f}; aim < 30)")
    print(f"  stripped program    {os.path.getsize(stripped) / 1e6:.2f} MB  (aim < 10)")
    aims.at_most("startup: ms to /readyz", statistics.median(ready), 100)
    aims.at_most("startup: MiB idle", statistics.median(rss), 30)
    aims.at_most("startup: MB of program", os.path.getsize(stripped) / 1e6, 10)


def one_by_one(server, agent, n):
    """Latencies in ms of n tasks on one kept-alive connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    took = []
    for i in range(n):
        began = time.monotonic()
        connection.request("POST", "/agent/execute", json.dumps({"agent": agent, "input": f"task {i}"}),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        accepted = json.loads(response.read())
        if response.status != 202:
            sys.exit(f"bench: submit answered {response.status}: {accepted}")
        connection.request("GET", accepted["statusUrl"].split("127.0.0.1:%d" % server.port)[-1] + "?wait=30s")
        task = json.loads(connection.getresponse().read())
        if task["status"] != "succeeded":
            sys.exit(f"bench: a task ended {task['status']}: {task.get('error')}")
        took.append((time.monotonic() - began) * 1000)
    return took


def bench_latency(gantry, work):
    heading("latency of a no-op task, submit to result, dev mode, one at a time")
    dirs = [agent_dir(work, "noop", BUILTIN), agent_dir(work, "noop-process", PROCESS)]
    server = Server(gantry, work, "dev", dirs)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.call("GET", "/api/agents/noop-process/routing")[0] != 200:
        time.sleep(0.02)
    for agent, what in (("noop", "builtin, one model call"), ("noop-process", "process, /bin/true")):
        one_by_one(server, agent, 50)
        took = sorted(one_by_one(server, agent, 500))
        print(f"  {what:<24} p50 {statistics.median(took):.2f} ms  p99 {took[int(len(took) * .99)]:.2f} ms  (aim p50 < 5)")
        aims.at_most(f"latency: p50 in ms, {what}", statistics.median(took), 5)
    server.stop()


def wrk(url, seconds, connections, script=None, threads=1):
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency"]
    if script:
        command += ["-s", script]
    out = subprocess.run(command + [url], capture_output=True, text=True, check=True).stdout
    result = {"errors": 0}
    for line in out.splitlines():
        words = line.split()
        if line.startswith("Requests/sec:"):
            result["rps"] = float(words[1])
        elif "requests in" in line:
            result["requests"] = int(words[0])
        elif words[:1] in (["50%"], ["99%"]):
            result[words[0]] = words[1]
        elif "Non-2xx" in line:
            result["errors"] = int(words[-1])
    return result


def lua(work, name, body, headers):
    path = os.path.join(work, name)
    fields = "".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}\n" for k, v in headers.items())
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'wrk.method = "POST"\nwrk.body = [==[{body}]==]\nwrk.headers["Content-Type"] = "application/json"\n{fields}')
    return path


def measured(name, pid, url, seconds, connections, script):
    wrk(url, 1, connections, script)
    before = cpu_seconds(pid)
    result = wrk(url, seconds, connections, script)
    used = cpu_seconds(pid) - before
    result["cpu_us"] = used / max(result["requests"], 1) * 1e6
    note = f"  {result['errors']} ERRORS" if result["errors"] else ""
    print(f"  {name:<34} {result['rps']:>9.0f} req/s  {result['cpu_us']:>7.1f} CPU-us/req"
          f"  p50 {result['50%']:>8}  p99 {result['99%']:>8}{note}")
    return result


def bench_submit(gantry, work, seconds):
    heading("submit: POST /agent/execute, 202 after the commit, no worker")
    key = "bench-key-0123456789abcdef"
    server = Server(gantry, work, "serve", env={"GANTRY_API_KEY": key})
    target = agent_dir(work, "noop", BUILTIN)
    subprocess.run([gantry, "version", "create", target, "--server", f"http://127.0.0.1:{server.port}", "--key", key],
                   check=True, capture_output=True)
    script = lua(work, "submit.lua", json.dumps({"agent": "noop", "input": "x" * 200}), {"Authorization": f"Bearer {key}"})
    for connections in (1, 64):
        measured(f"gantry, {connections} connections", server.process.pid, f"http://127.0.0.1:{server.port}/agent/execute",
                 seconds, connections, script)
    server.stop()


NGINX = """
worker_processes 1; worker_rlimit_nofile 40000; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.err;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
  fastcgi_temp_path {dir}/{name}-f; uwsgi_temp_path {dir}/{name}-u; scgi_temp_path {dir}/{name}-s;
  {block}
}}
"""


def nginx(work, name, block):
    directory = tempfile.mkdtemp(dir=work)
    os.chmod(directory, 0o777)
    path = os.path.join(directory, "nginx.conf")
    with open(path, "w", encoding="utf-8") as f:
        f.write(NGINX.format(dir=directory, name=name, block=block))
    process = subprocess.Popen(["nginx", "-c", path, "-p", directory], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    if process.poll() is not None:
        sys.exit(f"bench: nginx did not start: {open(os.path.join(directory, name + '.err'), encoding='utf-8').read()}")
    return process


def gateway_url(server, agent):
    """Submits a task whose agent logs its gateway's address and stays; returns that address."""
    status, body = server.call("POST", "/agent/execute", json.dumps({"agent": agent, "input": {}}),
                               {"Content-Type": "application/json"})
    if status != 202:
        sys.exit(f"bench: submit answered {status}: {body}")
    task = json.loads(body)["taskId"]
    for _ in range(200):
        for line in server.call("GET", f"/api/tasks/{task}/logs")[1].decode().split('"'):
            if line.startswith("http://127.0.0.1"):
                return line.replace("\\n", "").strip()
        time.sleep(0.05)
    sys.exit("bench: the agent never logged its address: " + server.call("GET", f"/agent/tasks/{task}")[1].decode())


# --- gateway ---

class Peer:
    """tests/bench/peer.c: the stub and the load."""

    def __init__(self, work):
        self.program = os.path.join(work, "peer")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer.c")
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", self.program, source], check=True)
        self.port = free_port()
        self.stub = subprocess.Popen([self.program, "stub", str(self.port)])
        time.sleep(0.3)

    def load(self, target, pid, connections, seconds, body, warmup=1.0, during=None):
        """Measures one target: its ports and path, headers; pid's CPU time while counting."""
        ports, path, headers = target
        if len(body) > 60000:
            name = os.path.join(os.path.dirname(self.program), "body")
            with open(name, "w", encoding="utf-8") as f:
                f.write(body)
            body = "@" + name
        command = [self.program, "load", ",".join(map(str, ports)), path, str(connections), str(seconds),
                   str(warmup), body, *headers]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        load.stdout.readline()
        before = cpu_seconds(pid)
        if during:
            during()
        result = json.loads(load.stdout.readline())
        result["cpu"] = cpu_seconds(pid) - before
        load.wait()
        return result


def chat_body(model, size, stream=False):
    body = {"model": model, "max_tokens": 200, "messages": [{"role": "user", "content": ""}]}
    if stream:
        body["stream"] = True
    words = "the quick brown fox jumps over the lazy dog, "
    body["messages"][0]["content"] = (words * (size // len(words) + 1))[:max(size - len(json.dumps(body)), 1)]
    return json.dumps(body, separators=(",", ":"))


STREAMING = "proxy_buffering off; proxy_read_timeout 600s;"
TASKS = 26  # each has a gateway of its own, which takes so many connections


def start_gantry(gantry, work, stub_port):
    config = (f"providers:\n  stub: {{protocol: openai, baseUrl: \"http://127.0.0.1:{stub_port}/v1\", "
              "price: {inputUsdPerMillion: \"0.001\", outputUsdPerMillion: \"0.001\"}}\n"
              "models:\n  - {match: \"*\", provider: stub}\n"
              f"lanes: {{critical: {{reserved: 1}}, normal: {{reserved: {TASKS}}}, low: {{reserved: 1}}, shared: 0}}\n"
              f"{GOVERNED}")
    limits = "{tokensPerTask: 1000000000000, toolCallsPerTask: 1000000, secondsPerTask: 3600, usdPerTask: \"1000000\"}"
    target = agent_dir(work, "stay", "  runtime: process\n  command: [/bin/sh, -c, 'echo $OPENAI_BASE_URL >&2; sleep 600']\n"
                       f"  code: .\n  model: {MODEL}\n  limits: {limits}\n")
    server = Server(gantry, work, "dev", [target], config=config)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.call("GET", "/api/agents/stay/routing")[0] != 200:
        time.sleep(0.02)
    ports = [int(gateway_url(server, "stay").split(":")[2].split("/")[0]) for _ in range(TASKS)]
    return server, (ports, "/v1/chat/completions", [])


# Budgets too large to be reached: they are counted all the same.
GOVERNED = "budgets: {dailyUsd: \"1000000\", monthlyUsd: \"10000000\", tokensPerUserPerDay: 1000000000000}\n"


def start_portkey(work, stub_port):
    """Portkey's gateway from npm, or why there is none."""
    place = os.path.join(work, "portkey")
    os.makedirs(place)
    if not shutil.which("npm"):
        return None, "npm is not here"
    with open(os.path.join(place, "package.json"), "w", encoding="utf-8") as f:
        json.dump({"private": True, "dependencies": dict([PORTKEY]), "overrides": dict([PORTKEY_SERVER])}, f)
    got = subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=place,
                         capture_output=True, text=True, check=False)
    script = os.path.join(place, "node_modules", "@portkey-ai", "gateway", "build", "start-server.js")
    if got.returncode or not os.path.exists(script):
        return None, "npm could not bring " + "@".join(PORTKEY)
    port = free_port()
    process = subprocess.Popen(["node", script, f"--port={port}", "--headless"], cwd=place,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    headers = ["x-portkey-provider: openai", "authorization: Bearer none",
               f"x-portkey-custom-host: http://127.0.0.1:{stub_port}/v1"]
    time.sleep(3)
    return (process, ([port], "/v1/chat/completions", headers)), None


PORTKEY = ("@portkey-ai/gateway", "1.15.2")
# It asks for ^1.3.3 of the server below it. From 1.14 on that one hands out the head of the upstream's
# answer itself where Portkey adds fields to a copy, and every streamed call is answered with 500
# ("TypeError: immutable"): this is the last with which Portkey streams.
PORTKEY_SERVER = ("@hono/node-server", "1.13.8")


def row(name, load, per, base=None):
    cpu = load["cpu"] / max(per, 1) * 1e6
    note = f"  {load['errors']} ERRORS" if load["errors"] else ""
    added = f"  added p50 {(load['p50_us'] - base['p50_us']) / 1000:>7.2f} p99 {(load['p99_us'] - base['p99_us']) / 1000:>7.2f} ms" if base else ""
    print(f"  {name:<10} {per / load['seconds']:>9.0f}/s {cpu:>8.1f} CPU-us{added}{note}")
    return cpu


def ratios(cpus, aim):
    """aim: what is measured, and most times nginx's CPU; None: for the record only."""
    for name in ("nginx", "portkey"):
        if name in cpus and cpus[name] > 0:
            print(f"  gantry / {name:<8} CPU {cpus['gantry'] / cpus[name]:.2f}x")
    if not aim:
        return
    what, times = aim
    aims.at_most(f"gateway: CPU beside nginx, {what}", cpus["gantry"] / max(cpus["nginx"], 0.001), times)
    if "portkey" in cpus:
        aims.at_least(f"gateway: Portkey's CPU beside ours, {what}", cpus["portkey"] / max(cpus["gantry"], 0.001), 15)
    else:
        aims.unmeasured(f"gateway: Portkey's CPU beside ours, {what}", "Portkey is not here, or answered with errors")


def compare(peer, servers, seconds, connections, body, count, aim=None):
    base = peer.load(([peer.port], "/v1/chat/completions", []), peer.stub.pid, connections, seconds, body)
    row("stub alone", base, base[count])
    cpus = {}
    for name, (pid, target) in servers.items():
        got = peer.load(target, pid, connections, seconds, body)
        cpu = row(name, got, got[count], base)
        if not got["errors"] or name != "portkey":  # a peer that fails is no measure
            cpus[name] = cpu
    ratios(cpus, aim)


def bench_streams(peer, servers, seconds):
    for streams in (1000, 5000):
        heading(f"gateway: memory at {streams} open streams, an event every 200 ms each")
        body = chat_body("stub-t1000-i200", 1000, True)
        for name, (pid, target) in servers.items():
            if name == "portkey" and streams > 1000:
                continue
            idle, used = rss_tree(pid), []

            def look(pid=pid, used=used):
                time.sleep(seconds)
                used.append(rss_tree(pid))
            got = peer.load(target, pid, streams, seconds + 3, body, 4.0, look)
            per = (used[0] - idle) * 1024 / streams
            print(f"  {name:<10} {used[0]:>8.1f} MiB, {per:>6.1f} KiB a stream  {got['errors']} errors")


def rss_tree(pid):
    return sum(rss_mib(p) for p in [pid] + children(pid) if is_alike(pid, p))


def is_alike(pid, other):
    """Workers of a server count, the agents that sleep below it do not."""
    names = [open(f"/proc/{p}/comm", encoding="ascii").read() for p in (pid, other)]
    return names[0] == names[1]


def bench_gateway(gantry, work, seconds):
    peer = Peer(work)
    proxy_port = free_port()
    proxy = nginx(work, "proxy", f"upstream stub {{ server 127.0.0.1:{peer.port}; keepalive 512; keepalive_requests 1000000; }} "
                                 f"server {{ listen 127.0.0.1:{proxy_port}; client_max_body_size 10m; client_body_buffer_size 1m; "
                                 f"location / {{ {STREAMING} proxy_pass http://stub; "
                                 f"proxy_http_version 1.1; proxy_set_header Connection ''; }} }}")
    server, ours = start_gantry(gantry, work, peer.port)
    servers = {"nginx": (proxy.pid, ([proxy_port], ours[1], [])), "gantry": (server.process.pid, ours)}
    portkey, why = start_portkey(work, peer.port)
    if portkey:
        servers["portkey"] = (portkey[0].pid, portkey[1])
    else:
        print(f"\nportkey: SKIPPED, {why}")
    for delay in (0, 60):
        for size in (1000, 10000, 100000):
            heading(f"gateway: {size // 1000} kB request, whole answer, stub after {delay} ms, 64 connections")
            aim = (f"1 kB whole, stub after {delay} ms", 3) if size == 1000 else None
            compare(peer, servers, seconds, 64, chat_body(f"stub-d{delay}-t80", size), "requests", aim)
    for delay in (0, 60):
        heading(f"gateway: streamed, 100 events 20 ms apart, stub after {delay} ms, 200 connections; CPU an event")
        compare(peer, servers, seconds, 200, chat_body(f"stub-d{delay}-t100-i20", 1000, True), "events",
                (f"a streamed event, stub after {delay} ms", 2))
    heading("gateway: one connection, whole answer, at once: latency added")
    compare(peer, servers, seconds, 1, chat_body("stub-t80", 1000), "requests")
    bench_streams(peer, servers, seconds)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    server.stop()
    for process in [proxy, peer.stub] + ([portkey[0]] if portkey else []):
        process.terminate()
        process.wait(10)


def program(gantry, name):
    """A measurement in C: in GANTRY_BENCHES, else beside the program."""
    there = os.environ.get("GANTRY_BENCHES", os.path.join(os.path.dirname(gantry), "tests", "unit"))
    return os.path.join(there, name)


def bench_lanes(gantry, _work):
    print("\nlanes")
    subprocess.run([program(gantry, "bench_queue_lanes")], check=True)


def bench_ingest(gantry, _work):
    heading("a finished task, counted for its version")
    subprocess.run([program(gantry, "bench_ingest")], check=True, stderr=subprocess.DEVNULL)


def bench_rollouts(gantry, _work):
    heading("rollouts, in an empty store and beside a million tasks")
    subprocess.run([program(gantry, "bench_rollout_cost")], check=True, stderr=subprocess.DEVNULL)


def bench_protocol(gantry, _work):
    heading("rollouts, the statistical protocol in full: two minutes")
    subprocess.run([program(gantry, "bench_rollout_protocol")], check=True)


def bench_queue(gantry, work, seconds, rounds):
    import queue_bench  # pylint: disable=import-outside-toplevel,cyclic-import
    queue_bench.run(gantry, work, seconds, rounds)


def bench_durable(gantry, work, seconds, rounds):
    import durable_bench  # pylint: disable=import-outside-toplevel,cyclic-import
    durable_bench.run(gantry, work, seconds, rounds)


PARTS = {"startup": (bench_startup, False), "latency": (bench_latency, False),
         "submit": (bench_submit, True), "gateway": (bench_gateway, True),
         "lanes": (bench_lanes, False), "ingest": (bench_ingest, False), "rollouts": (bench_rollouts, False),
         "protocol": (bench_protocol, False),
         "queue": (bench_queue, False), "durable": (bench_durable, False)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=5, help="of load a measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="of queue and durable, interleaved with their peers (default 3)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed; those of peers that are not here are not looked at")
    args = parser.parse_args()
    gantry = os.path.abspath(os.environ.get("GANTRY", "build/gantry"))
    unknown = [p for p in args.parts if p not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}")
    tools = all(shutil.which(t) for t in ("wrk", "nginx", "cc"))
    print(f"{os.cpu_count()} cores, {os.uname().release}; figures are this machine's, ratios travel")
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as work:
        os.chmod(work, 0o755)
        for name in args.parts or PARTS:
            run, needs_tools = PARTS[name]
            if needs_tools and not tools:
                print(f"\n{name}: SKIPPED, wrk, nginx and cc are needed (`tools/bootstrap --bench` installs them)")
                aims.unmeasured(name, "wrk, nginx and cc are needed")
            elif name in ("queue", "durable"):
                run(gantry, work, args.seconds, args.rounds)
            elif needs_tools:
                run(gantry, work, args.seconds)
            else:
                run(gantry, work)
    if aims.report() and args.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
