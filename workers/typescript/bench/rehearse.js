/**
 * How many steps a second this package bears, and what that costs in memory: a worker whose steps are made up in memory
 * (docs/boundary.md, Start). Prints one line of JSON.
 *
 *     npm run addon -- --release && npm run build && node bench/rehearse.js [STEPS]
 */

import { readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { defineHandler, HandlerRegistry, WorkerServer } from "@tasker-systems/tasker";

const WARM_UP = 10_000;
const SAMPLED = 5_000;

/** The fewest of some looks: one that waited for steps may be about to end. */
const threads = () => Math.min(...Array.from({ length: 50 }, () => readdirSync("/proc/self/task").length));
const rssMb = () => process.memoryUsage.rss() / 2 ** 20;

// This folder is also one of handlers, whose files are all loaded.
if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const steps = Number(process.argv[2] ?? 100_000);
  if (!(Number.isInteger(steps) && steps >= SAMPLED)) {
    throw new RangeError(`STEPS is a whole number from ${SAMPLED}`);
  }
  await rehearse(steps);
  process.exit(0);
}

async function rehearse(/** @type {number} */ steps) {
  let done = 0;
  /** @type {[x: number, y: number][]} */
  const samples = [];
  const begin = { at: 0, threads: 0 };

  const registry = new HandlerRegistry();
  registry.register(
    defineHandler("rehearsal", { inputs: { number: "number" } }, ({ number }) => {
      const counted = done - WARM_UP;
      done += 1;
      if (counted === 0) {
        Object.assign(begin, { at: performance.now(), threads: threads() });
      }
      if (counted >= 0 && counted % SAMPLED === 0) {
        samples.push([counted, rssMb()]);
      }
      return { number: number + 1 };
    }),
  );

  const worker = await new WorkerServer(registry).start({ rehearsal: WARM_UP + steps });
  await worker.wait();
  const seconds = (performance.now() - begin.at) / 1000;
  samples.push([done - WARM_UP, rssMb()]);
  if (done !== WARM_UP + steps) {
    throw new Error(`${done} steps ran instead of ${WARM_UP + steps}`);
  }

  console.log(
    JSON.stringify({
      language: "typescript",
      steps,
      seconds: rounded(seconds),
      steps_per_s: Math.round(steps / seconds),
      rss_mb_start: rounded(samples[0]?.[1]),
      rss_mb_end: rounded(samples.at(-1)?.[1]),
      mb_per_10000_steps: rounded(slope(samples) * 10_000),
      threads_start: begin.threads,
      threads_end: threads(),
    }),
  );
}

/**
 * The least-squares slope.
 * @param {[x: number, y: number][]} points
 */
function slope(points) {
  const mean = (/** @type {0 | 1} */ at) => points.reduce((sum, point) => sum + point[at], 0) / points.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  const of = (/** @type {(x: number, y: number) => number} */ each) =>
    points.reduce((sum, [x, y]) => sum + each(x - meanX, y - meanY), 0);
  return of((x, y) => x * y) / of((x) => x * x);
}

function rounded(value = 0) {
  return Math.round(value * 1000) / 1000;
}
