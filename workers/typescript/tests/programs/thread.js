/** A worker on a thread of the runtime that is ended from outside. Prints the threads with it and without it. */

import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { defineHandler, HandlerRegistry, WorkerServer } from "@tasker-systems/tasker";

const threads = () => readdirSync("/proc/self/task").length;

if (isMainThread) {
  const thread = new Worker(new URL(import.meta.url));
  await new Promise((resolve) => thread.once("message", resolve));
  const before = threads();
  await thread.terminate();
  // Far sooner than the poll ends by itself.
  for (let round = 0; round < 400 && threads() > before - 3; round++) {
    await sleep(50);
  }
  console.log(before);
  console.log(threads());
} else {
  const registry = new HandlerRegistry();
  registry.register(defineHandler("nobody.calls", {}, () => ({})));
  await new WorkerServer(registry).start({ namespace: "ts" });
  parentPort?.postMessage("running");
}
