#!/usr/bin/env python3
"""Measures Gantry beside peers in one run: figures are for this machine and this moment, ratios travel.

  startup   start to /readyz, idle memory, size of the stripped program
  latency   a no-op task through the API in dev mode, from submit to result, one at a time
  submit    POST /agent/execute, durable before 202, at a control plane without a worker
  gateway   POST /v1/chat/completions through a task's gateway to a stub, caps and durable call records
            on, beside the stub itself and nginx as plain reverse proxy to it

CPU-us a request is what the server's processes used (user + system, /proc/PID/stat) by the requests
answered. The load generator is wrk and the stub nginx; parts that need them are skipped without them.
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

TICKS = os.sysconf("SC_CLK_TCK")
MODEL = "bench-model"
ANSWER = json.dumps({
    "id": "chatcmpl-bench", "object": "chat.completion", "created": 1700000000, "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "All is well. " * 20},
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 80, "total_tokens": 280}})


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pid):
    """User and system time of the process and its children that live (nginx has workers)."""
    total = 0
    for child in [pid] + children(pid):
        with open(f"/proc/{child}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


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

    def __init__(self, gantry, work, verb, args=(), env=None, config=None):
        self.port = free_port()
        self.data = tempfile.mkdtemp(dir=work)
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
worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.err;
events {{ worker_connections 4096; }}
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


def bench_gateway(gantry, work, seconds):
    heading("gateway: 1 kB chat completion to a stub, 64 connections; caps and durable call records on")
    stub_port, proxy_port = free_port(), free_port()
    stub = nginx(work, "stub", f"server {{ listen 127.0.0.1:{stub_port} reuseport; default_type application/json; "
                               f"location / {{ return 200 '{ANSWER}'; }} }}")
    proxy = nginx(work, "proxy", f"upstream stub {{ server 127.0.0.1:{stub_port}; keepalive 128; }} "
                                 f"server {{ listen 127.0.0.1:{proxy_port}; location / {{ proxy_pass http://stub; "
                                 f"proxy_http_version 1.1; proxy_set_header Connection ''; }} }}")
    config = (f"providers:\n  stub: {{protocol: openai, baseUrl: \"http://127.0.0.1:{stub_port}/v1\", "
              "price: {inputUsdPerMillion: \"0\", outputUsdPerMillion: \"0\"}}\n"
              f"models:\n  - {{match: \"{MODEL}\", provider: stub}}\n")
    limits = "{tokensPerTask: 1000000000000, toolCallsPerTask: 1000000, secondsPerTask: 3600}"
    target = agent_dir(work, "stay", "  runtime: process\n  command: [/bin/sh, -c, 'echo $OPENAI_BASE_URL >&2; sleep 600']\n"
                       f"  code: .\n  model: {MODEL}\n  limits: {limits}\n")
    server = Server(gantry, work, "dev", [target], config=config)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.call("GET", "/api/agents/stay/routing")[0] != 200:
        time.sleep(0.02)
    base = gateway_url(server, "stay")
    request = json.dumps({"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "x" * 900}]})
    script = lua(work, "chat.lua", request, {})
    path = "/chat/completions"
    measured("stub alone (nginx)", stub.pid, f"http://127.0.0.1:{stub_port}/v1{path}", seconds, 64, script)
    by_nginx = measured("nginx as reverse proxy", proxy.pid, f"http://127.0.0.1:{proxy_port}/v1{path}", seconds, 64, script)
    by_gantry = measured("gantry", server.process.pid, base + path, seconds, 64, script)
    print(f"  gantry / nginx      CPU {by_gantry['cpu_us'] / by_nginx['cpu_us']:.2f}x   "
          f"requests {by_gantry['rps'] / by_nginx['rps']:.2f}x")
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    server.stop()
    for process in (proxy, stub):
        process.terminate()
        process.wait(10)


PARTS = {"startup": (bench_startup, False), "latency": (bench_latency, False),
         "submit": (bench_submit, True), "gateway": (bench_gateway, True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=5, help="of load a measurement (default 5)")
    args = parser.parse_args()
    gantry = os.path.abspath(os.environ.get("GANTRY", "build/gantry"))
    unknown = [p for p in args.parts if p not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}")
    tools = all(shutil.which(t) for t in ("wrk", "nginx"))
    print(f"{os.cpu_count()} cores, {os.uname().release}; figures are this machine's, ratios travel")
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as work:
        os.chmod(work, 0o755)
        for name in args.parts or PARTS:
            run, needs_tools = PARTS[name]
            if needs_tools and not tools:
                print(f"\n{name}: SKIPPED, wrk and nginx are needed (`tools/bootstrap --bench` installs them)")
            elif needs_tools:
                run(gantry, work, args.seconds)
            else:
                run(gantry, work)


if __name__ == "__main__":
    main()
