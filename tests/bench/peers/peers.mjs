// One queue of others under the same measures as Gantry's, in one process of Node, as JSON on a line.
//
//   node peers.mjs graphile|pgboss|bullmq default|tuned URL DRAIN_N SECONDS
//
// enqueue1, enqueue64: single jobs a second with 1 and 64 calls in flight, each acknowledged as that
// queue does by default. drain: no-op jobs a second, put there in bulk, until all have been handled
// and marked as done. start_p50_us, start_p99_us: from the call that enqueues to the start of the
// handler, one job after another.
import { Queue, Worker } from "bullmq";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import PgBoss from "pg-boss";

const [name, mode, url, drainText, secondsText] = process.argv.slice(2);
const drainN = Number(drainText), seconds = Number(secondsText);
const tuned = mode === "tuned";
const payload = { input: "x".repeat(200) };
const us = () => Number(process.hrtime.bigint() / 1000n);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** How many times a second `add` returns, with so many calls in flight. */
async function enqueue(add, flights) {
  const until = us() + seconds * 1e6, began = us();
  let n = 0;
  await Promise.all(Array.from({ length: flights }, async () => {
    while (us() < until) {
      await add();
      n++;
    }
  }));
  return n / (us() - began) * 1e6;
}

/** Resolves when `count` calls have been made of what it returns as `seen`. */
function counter(count) {
  let n = 0, finish;
  const all = new Promise((done) => { finish = done; });
  return { all, seen: (k = 1) => { if ((n += k) >= count) finish(); } };
}

const starts = { at: 0, handler: () => {} };
const begin = () => { starts.at = us(); starts.handler(); };

/** add enqueues a job whose handler calls begin. */
async function latency(add, n = 200, gapMs = 5) {
  const took = [];
  const unmeasured = n >> 3;
  for (let i = 0; i < n + unmeasured; i++) {
    const begun = new Promise((done) => { starts.handler = done; });
    const at = us();
    await add();
    await begun;
    if (i >= unmeasured) took.push(starts.at - at);
    await sleep(gapMs);
  }
  took.sort((a, b) => a - b);
  return { start_p50_us: took[n >> 1], start_p99_us: took[Math.floor(n * 0.99)] };
}

async function graphile() {
  const logger = new Logger(() => () => {});
  const pool = new pg.Pool({ connectionString: url, max: 64 });
  const utils = await makeWorkerUtils({ pgPool: pool, logger });
  await utils.migrate();
  const add = (task) => utils.addJob(task, payload);
  const result = { enqueue1: await enqueue(() => add("later"), 1), enqueue64: await enqueue(() => add("later"), 64) };
  await pool.query("DELETE FROM graphile_worker._private_jobs");
  for (let left = drainN; left > 0; left -= 1000)
    await utils.addJobs(Array.from({ length: Math.min(left, 1000) }, () => ({ identifier: "noop", payload })));
  await pool.query("ANALYZE graphile_worker._private_jobs");
  const { all, seen } = counter(drainN);
  const worker = tuned ? { concurrentJobs: 24, completeJobBatchDelay: 0, failJobBatchDelay: 0,
    localQueue: { size: 500 }, maxPoolSize: 32 } : { concurrentJobs: 24, maxPoolSize: 32 };
  const began = us();
  const runner = await run({ preset: { worker: { connectionString: url, logger, ...worker } },
    noHandleSignals: true, logger, taskList: { noop: async () => seen(), stamp: async () => begin() } });
  await all;
  for (;;) {
    const left = await pool.query("SELECT count(*)::int AS n FROM graphile_worker._private_jobs");
    if (left.rows[0].n === 0) break;
  }
  result.drain = drainN / (us() - began) * 1e6;
  Object.assign(result, await latency(() => add("stamp")));
  await runner.stop();
  await utils.release();
  await pool.end();
  return result;
}

async function pgboss() {
  const boss = new PgBoss({ connectionString: url, max: 32, supervise: false, schedule: false });
  boss.on("error", () => {});
  await boss.start();
  for (const q of ["later", "noop", "stamp"]) await boss.createQueue(q);
  const result = { enqueue1: await enqueue(() => boss.send("later", payload), 1),
    enqueue64: await enqueue(() => boss.send("later", payload), 64) };
  for (let left = drainN; left > 0; left -= 1000)
    await boss.insert(Array.from({ length: Math.min(left, 1000) }, () => ({ name: "noop", data: payload })));
  const { all, seen } = counter(drainN);
  const batchSize = tuned ? 1000 : 1;
  const began = us();
  let over = false;
  const loops = Array.from({ length: tuned ? 2 : 16 }, async () => {
    while (!over) {
      const jobs = await boss.fetch("noop", { batchSize });
      if (!jobs.length) return;
      await boss.complete("noop", jobs.map((j) => j.id));
      seen(jobs.length);
    }
  });
  await all;
  over = true;
  result.drain = drainN / (us() - began) * 1e6;
  await Promise.all(loops);
  await boss.work("stamp", { pollingIntervalSeconds: 0.5 }, async () => begin());
  Object.assign(result, await latency(() => boss.send("stamp", payload), 8, 37));
  await boss.stop({ graceful: false });
  return result;
}

async function bullmq() {
  const { hostname, port } = new URL(url);
  const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
  const options = { connection, defaultJobOptions: { removeOnComplete: true } };
  const later = new Queue("later", options), noop = new Queue("noop", options), stamp = new Queue("stamp", options);
  const result = { enqueue1: await enqueue(() => later.add("j", payload), 1),
    enqueue64: await enqueue(() => later.add("j", payload), 64) };
  await later.obliterate({ force: true });
  for (let left = drainN; left > 0; left -= 1000)
    await noop.addBulk(Array.from({ length: Math.min(left, 1000) }, () => ({ name: "j", data: payload })));
  const { all, seen } = counter(drainN);
  const began = us();
  const workers = Array.from({ length: tuned ? 4 : 1 }, () => {
    const w = new Worker("noop", async () => {}, { connection, concurrency: tuned ? 500 : 100 });
    w.on("completed", () => seen());
    return w;
  });
  await all;
  result.drain = drainN / (us() - began) * 1e6;
  const stamper = new Worker("stamp", async () => begin(), { connection });
  await stamper.waitUntilReady();
  Object.assign(result, await latency(() => stamp.add("j", payload)));
  await Promise.all([...workers, stamper].map((w) => w.close(true)));
  await Promise.all([later, noop, stamp].map((q) => q.close()));
  return result;
}

const result = await { graphile, pgboss, bullmq }[name]();
console.log(JSON.stringify(result));
process.exit(0);
