"""For end-to-end tests: servers by pid, free ports, a JSON client, agent directories. Standard library only."""

import atexit
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

GANTRY = os.path.abspath(os.environ.get("GANTRY", "build/gantry"))
SOURCE = os.environ.get("GANTRY_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.dirname(os.path.abspath(__file__)))))
SKIP = 77
ENDED = {"succeeded", "failed", "timed_out", "canceled"}
# Under a sanitizer everything is slower; the runner says by how much.
SLOWER = float(os.environ.get("GANTRY_TEST_SLOWER", "1"))


def seconds(n):
    return n * SLOWER


def check(condition, text, *more):
    if not condition:
        sys.exit("FAILED: " + text + "".join(f"\n  {m}" for m in more))


def equal(found, wanted, what):
    check(found == wanted, what, f"found  {found!r}", f"wanted {wanted!r}")


PATIENCE = 60  # seconds; a wait ends when what it waits for is there, so a long one costs only a test that fails


def pids_of(*argv):
    """The processes that live and have these arguments. A system need not have pgrep(1)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if f.read() == b"".join(arg.encode() + b"\0" for arg in argv):
                    found.append(int(pid))
        except OSError:
            pass  # it has ended meanwhile
    return found


def wait_for(condition, what, limit=PATIENCE):
    """Calls condition until it gives something true, which is returned."""
    deadline = time.monotonic() + seconds(limit)
    while True:
        found = condition()
        if found:
            return found
        check(time.monotonic() < deadline, f"not within {limit} s: {what}")
        time.sleep(0.01)


def free_port():
    """A port that nobody has, of those that the system gives to nobody: another test that runs beside cannot be given it
    while this one is about to take it, or has let go of it for a restart."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def clean_env(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GANTRY_", "OPENAI_", "ANTHROPIC_"))}
    return {**env, **more}


def agent_dir(name, spec, files=None, parent=None):
    """Writes an agent directory; spec is the YAML below `spec:`, unindented."""
    path = os.path.join(parent or tempfile.mkdtemp(), name)
    os.makedirs(path, exist_ok=True)
    indented = "".join("  " + line + "\n" for line in spec.strip("\n").split("\n"))
    everything = {"agent.yaml": f"apiVersion: gantry/v1\nkind: Agent\nmetadata: {{name: {name}}}\nspec:\n{indented}",
                  **(files or {})}
    for file, text in everything.items():
        full = os.path.join(path, file)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)
    return path


class Process:
    """A gantry process, its log in a file; ended in the end whatever happens."""

    def __init__(self, args, env=None, cwd=None):
        self.log_path = tempfile.mktemp(suffix=".log")
        self.log = open(self.log_path, "w", encoding="utf-8")
        self.popen = subprocess.Popen([GANTRY, *args], env=env or clean_env(), cwd=cwd or tempfile.mkdtemp(),
                                      stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        atexit.register(self.end)

    def end(self):
        """Nothing stays behind, whatever the test made of it."""
        if self.running():
            self.kill()

    @property
    def pid(self):
        return self.popen.pid

    def output(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def running(self):
        return self.popen.poll() is None

    def send(self, number):
        self.popen.send_signal(number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.popen.wait()

    def wait(self, limit=PATIENCE):
        """Its exit status."""
        try:
            return self.popen.wait(seconds(limit))
        except subprocess.TimeoutExpired:
            self.kill()
            sys.exit(f"FAILED: process {self.pid} did not end within {limit} s\n{self.output()}")

    def stop(self, limit=PATIENCE):
        """Drains it; its exit status."""
        if self.running():
            self.send(signal.SIGTERM)
        return self.wait(limit)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.running():
            self.kill()
        if exc[0] and exc[0] is not SystemExit or (exc[1] and str(exc[1]) not in ("0", str(SKIP))):
            sys.stderr.write(f"--- output of {' '.join(self.popen.args)}\n{self.output()}\n")
        self.log.close()


class Server(Process):
    """`gantry dev` or `gantry serve`, ready."""

    def __init__(self, verb="dev", dirs=(), data=None, port=None, config=None, key=None, env=None, wait=True):
        self.port = port or free_port()
        self.data = data or tempfile.mkdtemp()
        self.key = key
        args = [verb, "--port", str(self.port), "--data", self.data]
        if config:
            path = os.path.join(tempfile.mkdtemp(), "gantry.yaml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(config)
            args += ["--config", path]
        self.names = []
        super().__init__([*args, *dirs], env=env or clean_env(**({"GANTRY_API_KEY": key} if key else {})))
        self.url = f"http://127.0.0.1:{self.port}"
        if wait:
            self.wait_ready(dirs)

    def wait_ready(self, dirs=()):
        def ready():
            check(self.running(), "the server ended at its start", self.output())
            try:
                return self.get("/readyz")[0] == 200
            except OSError:
                return False
        wait_for(ready, "the server is ready", 80)
        for path in dirs:
            name = os.path.basename(os.path.normpath(path))
            def routed(name=name):
                check(self.running(), "the server ended at its start", self.output())
                return self.get(f"/api/agents/{name}/routing")[0] == 200
            wait_for(routed, f"{name} is deployed")

    def request(self, method, path, body=None, headers=None, timeout=70):
        """(status, parsed JSON or bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds(timeout))
        headers = dict(headers or {})
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, raw

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def submit(self, agent, task_input, **more):
        """The 202 answer."""
        headers = more.pop("headers", None)
        status, answer = self.post("/agent/execute", {"agent": agent, "input": task_input, **more}, headers=headers)
        equal(status, 202, f"submitting to {agent}: {answer}")
        return answer

    def task(self, task_id):
        status, task = self.get(f"/agent/tasks/{task_id}")
        equal(status, 200, f"reading task {task_id}: {task}")
        return task

    def end_of(self, task_id, limit=2 * PATIENCE):
        """The task once it has ended."""
        deadline = time.monotonic() + seconds(limit)
        while True:
            status, task = self.get(f"/agent/tasks/{task_id}?wait=10s")
            equal(status, 200, f"waiting for task {task_id}: {task}")
            if task["status"] in ENDED:
                return task
            check(time.monotonic() < deadline, f"task {task_id} has not ended", task)

    def run(self, agent, task_input, **more):
        return self.end_of(self.submit(agent, task_input, **more)["taskId"])

    def cli(self, *args, **kw):
        return cli("--server", self.url, *(("--key", self.key) if self.key else ()), *args, **kw)


def cli(*args, stdin=None, env=None, cwd=None, timeout=2 * PATIENCE):
    """Runs the program; a CompletedProcess with text. Flags of every command may come first."""
    flags, words = [], list(args)
    while words and words[0].startswith("--"):
        flags += words[:2]
        words = words[2:]
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run([GANTRY, *words, *flags], **source, capture_output=True, text=True, timeout=seconds(timeout),
                          env=env or clean_env(), cwd=cwd, check=False)
    # a notice of the sanitizer about stack switching as such, not about the program; and one that the machine is slow
    done.stderr = "".join(line for line in done.stderr.splitlines(keepends=True)
                          if "ASan doesn't fully support makecontext/swapcontext" not in line and 'event="loop held up"' not in line)
    return done
