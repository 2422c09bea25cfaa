#!/usr/bin/env python3
"""kill -9 of a server, of its workers and of their agents, at random moments, under load; and workers that stand still
(SIGSTOP) until their lease has ended, and are woken: they record nothing then.

Clients submit tasks under keys until each is acknowledged, and wait for their ends. The tasks call a model at an
upstream that counts what it was asked. In the end every acknowledged task is there once, at rest, with the result its
client was told; no end, call or webhook is there twice; and what was recorded as spent is exactly what the calls in the
records cost, and for no task less than the upstream was asked for.

    tests/torture/kill.py [--server-kills 1000] [--other-kills 500] [--stops 200] [--seed N]

GANTRY names the program (build/gantry)."""

import argparse
import collections
import http.client
import http.server
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e", "lib"))
from gantry import ENDED, Process, Server, agent_dir, check, clean_env, equal, free_port, wait_for  # noqa: E402

KEY = "a-key-for-tests-0123456789"
CLIENTS, WINDOW, WORKERS = 4, 10, 2  # WINDOW: tasks of a client that are open
LEASE_S = 3
STEPS = 3  # calls of a task that is a process
PROMPT_TOKENS, ANSWER_TOKENS = 10, 5
PAID = PROMPT_TOKENS * 1000 + ANSWER_TOKENS * 2000  # nano-USD
MARK = "gantry-torture-agent"

AGENT = f"""# {MARK}
import json, os, socket, sys
if os.fork() == 0: # its child, which moves away and outlives it if nobody ends it
    os.setsid()
    for fd in range(3): os.close(fd)
    os.execvp("sleep", ["{MARK}-child", "100000"])
number = json.loads(sys.stdin.read())["input"]["number"]
host, port = os.environ["OPENAI_BASE_URL"].split("/")[2].split(":")
said = []
for step in range({STEPS}):
    body = json.dumps({{"model": "m-1", "max_tokens": 50, "messages": [
        {{"role": "user", "content": "number %d step %d" % (number, step)}}]}})
    s = socket.create_connection((host, int(port)), 100)
    s.sendall(("POST /v1/chat/completions HTTP/1.1\\r\\nHost: %s:%s\\r\\nContent-Type: application/json\\r\\n"
               "Connection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (host, port, len(body), body)).encode())
    answer = b""
    while True:
        more = s.recv(65536)
        if not more: break
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        sys.stderr.write(repr(answer[:1000]))
        sys.exit(75)
    said.append(json.loads(answer.split(b"\\r\\n\\r\\n", 1)[1])["choices"][0]["message"]["content"])
print(json.dumps(said))
"""


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()

    def log_message(self, *args):
        pass

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, status, text=b""):
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:
            self.close_connection = True  # who asked is dead


class Upstream(Quiet):
    """Answers each request with a text of its own, and bills it whether that arrives or not."""
    asked = collections.Counter()  # number of the task -> requests
    said = {}  # text -> number of the task

    def do_POST(self):
        number = int(re.search(rb"number[^0-9]*([0-9]+)", self.body()).group(1))
        with self.lock:
            Upstream.asked[number] += 1
            text = f"number {number}, answer {len(Upstream.said)}"
            Upstream.said[text] = number
        time.sleep(random.random() * 0.04)
        self.answer(200, json.dumps({
            "id": "c", "object": "chat.completion", "model": "m-1",
            "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS,
                      "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS},
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": text}}]}).encode())


class Receiver(Quiet):
    """Of webhooks."""
    ids = collections.defaultdict(set)  # task -> webhook ids
    results = {}
    arrived = 0

    def do_POST(self):
        data = json.loads(self.body())["data"]
        with self.lock:
            Receiver.arrived += 1
            Receiver.ids[data["taskId"]].add(self.headers["webhook-id"])
            Receiver.results.setdefault(data["taskId"], []).append(data.get("result"))
        self.answer(204)


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # connections of the dead
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


class Client(threading.Thread):
    numbers = iter(range(1 << 60))
    acknowledged = {}  # number -> task id
    ends = {}  # task id -> (status, result) as it was told
    submissions = 0
    stop = False
    wrong = []

    def __init__(self, port, webhook):
        super().__init__(daemon=True)
        self.server = Server.__new__(Server)  # only its HTTP client
        self.server.port, self.server.key = port, KEY
        self.webhook = webhook

    def insist(self, method, path, body=None, headers=None):
        """Until there is an answer."""
        while True:
            try:
                status, answer = self.server.request(method, path, body, headers=headers, timeout=20)
                if status < 429:
                    return status, answer
            except (OSError, EOFError, http.client.HTTPException):
                pass
            time.sleep(0.02)

    def submit(self):
        number = next(Client.numbers)
        body = {"agent": "steps" if number % 2 else "quick", "input": {"number": number}}
        if number % 5 == 0:
            body["webhookUrl"] = self.webhook
        Client.submissions += 1
        status, answer = self.insist("POST", "/agent/execute", body, {"Idempotency-Key": f"key-{number}"})
        if status != 202:
            Client.wrong.append(f"submitting {number}: {status} {answer}")
            return None
        Client.acknowledged[number] = answer["taskId"]
        return answer["taskId"]

    def wait(self, task_id):
        while True:
            status, task = self.insist("GET", f"/agent/tasks/{task_id}?wait=5s")
            if status != 200:
                Client.wrong.append(f"reading {task_id}: {status} {task}")
                return
            if task["status"] in ENDED:
                Client.ends[task_id] = (task["status"], task.get("result"))
                return

    def run(self):
        while not Client.stop:
            for task_id in [self.submit() for _ in range(WINDOW)]:
                if task_id:
                    self.wait(task_id)


class Prey:
    """The processes: ended at random, begun again."""

    def __init__(self, upstream, seed):
        self.rng = random.Random(seed)
        self.config = f"""providers:
  local: {{protocol: openai, baseUrl: "http://127.0.0.1:{upstream}/v1", capMember: max_tokens}}
models: [{{match: "*", provider: local}}]
prices: [{{model: m-1, inputUsdPerMillion: "1", outputUsdPerMillion: "2", maxOutputTokens: 4096}}]
budgets: {{dailyUsd: "100000"}}
lanes: {{shared: 8}}
worker: {{lease: {LEASE_S}s}}
webhooks: {{allow: ["127.0.0.0/8"]}}
"""
        self.config_path = os.path.join(tempfile.mkdtemp(), "gantry.yaml")
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(self.config)
        self.kills = collections.Counter()
        self.stopped, self.wake_at = None, 0
        self.ready_ms = []
        self.server = Server("serve", port=free_port(), key=KEY, config=self.config)
        self.data = [tempfile.mkdtemp() for _ in range(WORKERS)]
        self.workers = [self.worker(i) for i in range(WORKERS)]

    def worker(self, i):
        return Process(["worker", "--server", self.server.url, "--data", self.data[i], "--name", f"w{i}", "--config",
                        self.config_path], env=clean_env(GANTRY_API_KEY=KEY))

    def bury(self, process):
        """Ends it, looks at its last words."""
        check(process.running(), "it ran until it was killed", process.output()[-4000:])
        process.kill()
        text = process.output()
        for line in text.splitlines():
            check("fatal" not in line and "level=error" not in line and "Sanitizer" not in line, "no errors", line)
        process.log.close()
        os.unlink(process.log_path)

    def kill_server(self):
        self.bury(self.server)
        began = time.monotonic()
        self.server = Server("serve", data=self.server.data, port=self.server.port, key=KEY, config=self.config,
                             wait=False)
        wait_for(self.is_ready, "the server is ready", 60)
        self.ready_ms.append((time.monotonic() - began) * 1000)
        self.kills["server"] += 1

    def is_ready(self):
        check(self.server.running(), "the server starts", self.server.output()[-4000:])
        try:
            return self.server.get("/readyz", timeout=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop_worker(self):
        """One at a time, so that the others go on with what it had."""
        while self.stopped:
            time.sleep(0.1)
            self.wake()
        self.stopped = self.rng.choice(self.workers)
        self.stopped.send(signal.SIGSTOP)
        self.wake_at = time.monotonic() + LEASE_S + 0.5 + self.rng.random()
        self.kills["stopped worker"] += 1

    def wake(self, now=False):
        if self.stopped and (now or time.monotonic() > self.wake_at):
            self.stopped.send(signal.SIGCONT)
            self.stopped = None

    def kill_worker(self):
        i = self.rng.randrange(WORKERS)
        if self.workers[i] is self.stopped:
            self.stopped = None
        self.bury(self.workers[i])
        self.workers[i] = self.worker(i)
        self.kills["worker"] += 1

    def agents(self):
        """Pids of agents of our workers."""
        parent, marked = {}, []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                    parent[int(pid)] = int(f.read().rsplit(")", 1)[1].split()[1])
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if MARK.encode() in f.read():
                        marked.append(int(pid))
            except OSError:
                pass
        ours = {w.pid for w in self.workers}

        def descends(pid):
            while pid > 1 and pid not in ours:
                pid = parent.get(pid, 0)
            return pid in ours
        return [pid for pid in marked if descends(pid)]

    def children(self):
        """Pids of what agents of our workers have started, wherever it has moved."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    named = f.read().startswith(f"{MARK}-child".encode())
                with open(f"/proc/{pid}/environ", "rb") as f:
                    environ = f.read()
                if named and any(f"={data}/".encode() in environ for data in self.data):
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def kill_agent(self):
        agents = self.agents()
        if not agents:
            return self.kill_worker()
        try:
            os.kill(self.rng.choice(agents), signal.SIGKILL)
            self.kills["agent"] += 1
        except ProcessLookupError:
            pass
        return None

    def hunt(self, server_kills, other_kills, stops):
        """Mostly short lives; sometimes one in which things come to rest."""
        for n in range(server_kills):
            self.wake()
            if self.kills["stopped worker"] < stops * (n + 1) // server_kills:
                self.stop_worker()
            time.sleep(self.rng.choice((0.02, 0.1, 0.3, 0.6)) * self.rng.random())
            while self.kills["worker"] + self.kills["agent"] < other_kills * (n + 1) // server_kills:
                (self.kill_worker if self.rng.random() < 0.4 else self.kill_agent)()
                time.sleep(self.rng.random() * 0.1)
            if n % 20 == 19:
                time.sleep(self.rng.random() * 4)
            self.kill_server()
            if (n + 1) % 100 == 0:
                print(f"{dict(self.kills)}, {len(Client.acknowledged)} tasks, {len(Client.ends)} ended", flush=True)

    def rest(self):
        """Everything settles, and leaves in order."""
        self.wake(now=True)
        for worker in self.workers:
            equal(worker.stop(60), 0, "exit status of a worker")
        wait_for(lambda: self.server.get("/api/budgets/day")[1]["reservedNusd"] == 0, "nothing is reserved", 30)
        hooked = {Client.acknowledged[n] for n in Client.acknowledged if n % 5 == 0}
        wait_for(lambda: set(Receiver.ids) >= hooked, "every webhook has arrived", 120)
        equal(self.server.stop(), 0, "exit status of the server")
        equal(self.children(), [], "processes that agents have left behind")


def judge(data):
    """The records, against what clients, upstream and receiver know."""
    db = sqlite3.connect(os.path.join(data, "gantry.db"))
    equal(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "the database")
    rows = db.execute("SELECT lower(hex(id)), state, cost_nusd, seq FROM task").fetchall()
    tasks = {f"{i[:8]}-{i[8:12]}-{i[12:16]}-{i[16:20]}-{i[20:]}": more for i, *more in rows}
    known = set(Client.acknowledged.values())
    equal(len(known), len(Client.acknowledged), "a task of its own for each key")
    lost = known - set(tasks)
    equal(lost, set(), "acknowledged tasks that are lost")
    equal(set(tasks) - known, set(), "tasks that nobody was told of")
    states = collections.Counter(state for state, *_ in tasks.values())
    check(set(states) <= {2, 3}, "all are at rest", states)

    def none(what, sql):
        equal(db.execute(sql).fetchall()[:3], [], what)
    none("attempts that succeeded, of a task that did", "SELECT seq FROM task WHERE (state = 2) <> "
         "(SELECT count(*) FROM attempt WHERE task_seq = seq AND outcome = 'succeeded')")
    none("results, of a task that succeeded", "SELECT seq FROM task WHERE (state = 2) <> "
         "(SELECT count(*) FROM task_result r WHERE r.seq = task.seq)")
    none("attempts that go on", "SELECT task_seq FROM attempt WHERE finished_at_ms = 0")
    none("attempts without a record of their end", "SELECT seq FROM task WHERE attempt <> "
         "(SELECT count(*) FROM attempt WHERE task_seq = seq)")
    none("calls recorded twice", "SELECT call_id FROM call GROUP BY call_id HAVING count(*) > 1")
    none("tasks whose cost is not that of their calls", "SELECT seq FROM task WHERE cost_nusd <> "
         "(SELECT coalesce(sum(cost_nusd), 0) FROM call WHERE task_seq = seq)")
    none("replayed calls that cost something", "SELECT id FROM call WHERE replayed AND cost_nusd <> 0")
    none("answered calls at another price", f"SELECT id FROM call WHERE outcome = 'ok' AND NOT replayed AND cost_nusd <> {PAID}")
    none("lost calls for less", f"SELECT id FROM call WHERE outcome = 'lost' AND cost_nusd < {PAID}")
    none("webhooks, of a task with one", "SELECT seq FROM task WHERE webhook_url IS NOT NULL AND 1 <> "
         "(SELECT count(*) FROM webhook WHERE task_seq = seq)")
    cost = db.execute("SELECT coalesce(sum(cost_nusd), 0) FROM call").fetchone()[0]
    equal(db.execute("SELECT sum(cost_nusd) FROM spend").fetchone()[0], cost, "the sums of spend")
    settled = db.execute("SELECT sum(settled + max(0, granted - returned - settled)) FROM budget_slice"
                         " WHERE scope = 'day'").fetchone()[0]  # of both days, when it began before midnight
    equal(settled, cost, "the budget")

    paid = {n: c for n, c in db.execute(
        "SELECT json_extract(input, '$.number'), (SELECT count(*) FROM call WHERE task_seq = p.seq AND cost_nusd > 0)"
        " FROM task_payload p")}
    for number, asked in Upstream.asked.items():
        check(paid[number] >= asked, f"calls of number {number} that the upstream bills and nobody recorded",
              paid[number], asked)
    judge_results(db, tasks)
    fates = collections.Counter(dict(db.execute("SELECT outcome, count(*) FROM call GROUP BY 1").fetchall()))
    errors = collections.Counter(dict(db.execute(
        "SELECT error_code, count(*) FROM task WHERE state = 3 GROUP BY 1").fetchall()))
    replayed = db.execute("SELECT count(*) FROM call WHERE replayed").fetchone()[0]
    attempts = db.execute("SELECT count(*) FROM attempt").fetchone()[0]
    print(f"{len(tasks)} tasks, {attempts} attempts; calls {dict(fates)}, of which {replayed} were replayed; upstream asked "
          f"{sum(Upstream.asked.values())} times; {states[2]} succeeded, {states[3]} failed {dict(errors)}; "
          f"{Receiver.arrived} webhooks for {len(Receiver.ids)} tasks")


def judge_results(db, tasks):
    results = dict(db.execute("SELECT seq, result FROM task_result").fetchall())
    number_of = {task_id: number for number, task_id in Client.acknowledged.items()}
    for task_id, (state, _, seq) in tasks.items():
        result = json.loads(results[seq]) if state == 2 else None
        told = Client.ends.get(task_id)
        if told:
            equal(told, ("succeeded" if state == 2 else "failed", result), f"what the client of {task_id} was told")
        answers = re.findall(r"number \d+, answer \d+", json.dumps(result))
        check(state != 2 or answers, f"the result of {task_id} comes from the model", result)
        for text in answers:
            equal(Upstream.said[text], number_of[task_id], f"whose answer is in the result of {task_id}")
        equal(len(Receiver.ids.get(task_id, ())) <= 1, True, f"one webhook id for {task_id}")
        for hooked in Receiver.results.get(task_id, ()):
            equal(hooked, result, f"the result in the webhook of {task_id}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--server-kills", type=int, default=1000)
    parser.add_argument("--other-kills", type=int, default=500, help="of workers and agents")
    parser.add_argument("--stops", type=int, help="of workers, past their lease; a fifth of --server-kills")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    stops = args.server_kills // 5 if args.stops is None else args.stops
    print(f"seed {args.seed}", flush=True)
    began = time.monotonic()
    prey = Prey(serve(Upstream), args.seed)
    dirs = [agent_dir("quick", "runtime: builtin\nprompt: p.md\nmodel: m-1\nretry: {maxAttempts: 100}",
                      {"p.md": "Answer.\n"}),
            agent_dir("steps", f"runtime: process\ncommand: [python3, -S, -E, {MARK}.py]\ncode: .\nmodel: m-1\n"
                      "retry: {maxAttempts: 100}", {f"{MARK}.py": AGENT})]
    for path in dirs:
        done = prey.server.cli("version", "create", path)
        equal(done.returncode, 0, done.stderr)
    hook = f"http://127.0.0.1:{serve(Receiver)}/hook"
    clients = [Client(prey.server.port, hook) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    prey.hunt(args.server_kills, args.other_kills, stops)
    Client.stop = True
    deadline = time.monotonic() + 100
    for client in clients:
        client.join(max(1, deadline - time.monotonic()))
    left = [task_id for task_id in Client.acknowledged.values() if task_id not in Client.ends]
    check(not left, f"all of {len(Client.acknowledged)} tasks come to rest", *[
        (prey.server.task(task_id), prey.server.get(f"/api/tasks/{task_id}/timeline")[1]["events"][-8:])
        for task_id in left[:3]], prey.server.output()[-3000:], *[w.output()[-3000:] for w in prey.workers])
    equal(Client.wrong, [], "answers that no client should get")
    prey.rest()
    judge(prey.server.data)
    ready = sorted(prey.ready_ms)
    print(f"{dict(prey.kills)} killed in {time.monotonic() - began:.0f} s; ready again after {ready[len(ready) // 2]:.0f} ms "
          f"(median), at most {ready[-1]:.0f} ms: 0 tasks lost, 0 results doubled, the ledger exact")


main()
