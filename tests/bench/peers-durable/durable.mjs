// Handlers of no step and of five durable steps, for Gantry and for others, in one process of Node each.
//
//   node durable.mjs gantry               an agent (runtime: server, at $PORT): each step a model call through the
//                                         task's gateway, answered once it is recorded
//   node durable.mjs restate PORT         an endpoint of Restate: the service `job`, handlers `none` and `five`
//   node durable.mjs dbos URL SECONDS     workflows of DBOS on PostgreSQL at URL, which it measures itself; JSON
//
// The first two serve until they are ended; that of Restate says when it is "ready". A step's result is 200 bytes. What dbos prints:
// none, five: workflows a second, started and awaited, 64 in flight. queued: workflows without a step a
// second, put on a queue before, until all have ended. none_p50_us, five_p50_us, ..._p99_us: start to result, one
// after another.
const [name, where, secondsText] = process.argv.slice(2);
const STEPS = 5, FLIGHTS = 64, QUEUED = 2000;
const text = "x".repeat(200);

async function gantry() {
  const http = await import("node:http");
  const keep = new http.Agent({ keepAlive: true });
  const body = JSON.stringify({ model: "sim/echo", messages: [{ role: "user", content: text }] });
  const step = (url, key) => new Promise((done, failed) => {
    const request = http.request(`${url}/v1/chat/completions`, { agent: keep, method: "POST",
      headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body), authorization: `Bearer ${key}` } },
    (answer) => {
      answer.resume();
      answer.on("end", () => answer.statusCode === 200 ? done() : failed(new Error(`status ${answer.statusCode}`)));
      answer.on("error", failed);
    });
    request.on("error", failed);
    request.end(body);
  });
  const invoke = async (headers) => {
    for (let i = 0; i < STEPS; i++) await step(headers["x-gantry-url"], headers["x-gantry-key"]);
    return { ok: true };
  };
  http.createServer(async (request, answer) => {
    request.resume();
    answer.setHeader("content-type", "application/json");
    if (request.method === "GET") return answer.end('{"status":"Healthy"}');
    try {
      answer.end(JSON.stringify(await invoke(request.headers)));
    } catch (error) {
      answer.statusCode = 400; // not to be tried again: the bench says that not all have succeeded
      answer.end(JSON.stringify({ error: String(error) }));
    }
  }).listen(Number(process.env.PORT), "127.0.0.1");
}

async function restate() {
  Promise.withResolvers ??= () => { // the SDK uses it; Node has it from 22 on
    const made = {};
    made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
  };
  const { service, createEndpointHandler } = await import("@restatedev/restate-sdk");
  const http2 = await import("node:http2");
  const job = service({ name: "job", handlers: {
    none: async () => ({ ok: true }),
    five: async (ctx) => {
      for (let i = 0; i < STEPS; i++) await ctx.run(`step ${i}`, () => text);
      return { ok: true };
    },
  } });
  http2.createServer(createEndpointHandler({ services: [job] })).listen(Number(where), "127.0.0.1", () => console.log("ready"));
}

const us = () => Number(process.hrtime.bigint() / 1000n);

/** How many times a second `run` returns, with FLIGHTS calls in flight. */
async function rate(run, seconds) {
  const began = us(), until = began + seconds * 1e6;
  let n = 0;
  await Promise.all(Array.from({ length: FLIGHTS }, async () => {
    while (us() < until) {
      await run();
      n++;
    }
  }));
  return n / (us() - began) * 1e6;
}

async function latency(run, what, n = 200, gapMs = 5) {
  const took = [];
  for (let i = -n >> 3; i < n; i++) {
    const at = us();
    await run();
    if (i >= 0) took.push(us() - at);
    await new Promise((done) => setTimeout(done, gapMs));
  }
  took.sort((a, b) => a - b);
  return { [`${what}_p50_us`]: took[n >> 1], [`${what}_p99_us`]: took[Math.floor(n * 0.99)] };
}

async function dbos() {
  const { DBOS } = await import("@dbos-inc/dbos-sdk");
  DBOS.setConfig({ name: "bench", systemDatabaseUrl: where, systemDatabasePoolSize: 32, logLevel: "error" });
  const none = DBOS.registerWorkflow(async () => ({ ok: true }), { name: "none" });
  const five = DBOS.registerWorkflow(async () => {
    for (let i = 0; i < STEPS; i++) await DBOS.runStep(async () => text, { name: `step ${i}` });
    return { ok: true };
  }, { name: "five" });
  let left = 0, emptied;
  const queued = DBOS.registerWorkflow(async () => { if (--left === 0) emptied(); }, { name: "queued" });
  await DBOS.launch();
  const run = (workflow) => async () => (await DBOS.startWorkflow(workflow)()).getResult();
  const seconds = Number(secondsText);
  await rate(run(five), 0.5);
  const result = { none: await rate(run(none), seconds), five: await rate(run(five), seconds) };
  Object.assign(result, await latency(run(none), "none"), await latency(run(five), "five"));
  const all = new Promise((done) => { emptied = done; });
  const handles = [];
  left = QUEUED;
  // The queue is there only when all wait in it.
  for (let i = 0; i < QUEUED; i += FLIGHTS)
    handles.push(...await Promise.all(Array.from({ length: Math.min(FLIGHTS, QUEUED - i) },
      () => DBOS.startWorkflow(queued, { queueName: "later" })())));
  const began = us();
  await DBOS.registerQueue("later", { workerConcurrency: FLIGHTS, minPollingIntervalMs: 10 });
  await all;
  result.queued = QUEUED / (us() - began) * 1e6;
  await DBOS.shutdown();
  console.log(JSON.stringify(result));
  process.exit(0);
}

await { gantry, restate, dbos }[name]();
