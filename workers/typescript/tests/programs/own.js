/** A program with a worker of its own. Prints the codes of what was refused, and its threads before and after 100 starts. */

import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import {
  bootstrapWorker,
  defineHandler,
  HandlerRegistry,
  isWorkerRunning,
  stopWorker,
  WorkerServer,
} from "@tasker-systems/tasker";
import { native } from "../../dist/native.js";

/** @type {string[]} */
const codes = [];

/** @param {() => unknown} call */
async function refused(call) {
  try {
    const said = await call();
    codes.push(/** @type {{ code?: string } | undefined} */ (said)?.code ?? "not_refused");
  } catch (error) {
    codes.push(/** @type {{ code: string }} */ (error).code);
  }
}

const threads = () => readdirSync("/proc/self/task").length;

/** Threads end a moment after they were told to: their number once it is at most this. */
async function settled(most = 0) {
  let last = -1;
  for (let round = 0; round < 100 && (last !== threads() || last > most); round++) {
    last = threads();
    await sleep(50);
  }
  return threads();
}

/** @type {() => void} */
let called = () => {};
const run = new Promise((resolve) => {
  called = () => resolve(undefined);
});
HandlerRegistry.instance().register(
  defineHandler("flows.single", {}, async () => {
    await refused(stopWorker);
    called();
  }),
);

const worker = await bootstrapWorker({ namespace: "ts" });
await refused(bootstrapWorker);
await refused(() => worker.start());
const headers = { "content-type": "application/json" };
const body = JSON.stringify({ namespace: "ts", name: "single", context: {} });
const answer = await fetch(`${process.env.SERVER}/v1/tasks`, { method: "POST", headers, body });
const { task_uuid: task } = /** @type {{ task_uuid: string }} */ (await answer.json());
await run;
await fetch(`${process.env.SERVER}/v1/tasks/${task}/wait?timeout_ms=60000`);
await stopWorker();
await refused(() => worker.stop());

// The addon itself, used after it has stopped.
const message = { version: 1, handlers: { x: ["call"] }, variables: { TASKER__WORKER__NAMESPACES: "ts" } };
const raw = /** @type {import("../../dist/native.js").NativeWorker} */ (await native().start(JSON.stringify(message)));
const waiting = raw.poll(60_000);
await raw.stop(0);
await refused(() => waiting);
await refused(() => raw.complete('{"outcomes":[{"id":"1.1","type":"success"}]}'));

const own = new WorkerServer();
const before = await settled();
for (let round = 0; round < 100; round++) {
  await own.start({ namespace: "ts" });
  await own.stop();
}
console.log(codes.join(" "));
console.log(before);
console.log(await settled(before));
if (isWorkerRunning() || own.isRunning()) {
  console.log("still running");
}
