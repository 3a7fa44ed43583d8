/** Which server a client takes. Prints what it says without a worker, while one runs, after that, and misconfigured. */

import { defineHandler, HandlerRegistry, TaskerClient, WorkerServer } from "@tasker-systems/tasker";

async function say() {
  try {
    console.log((await new TaskerClient().healthCheck()).status);
  } catch (error) {
    console.log(/** @type {{ code: string }} */ (error).code);
  }
}

await say();
const registry = new HandlerRegistry();
registry.register(defineHandler("nobody.calls", {}, () => ({})));
const worker = new WorkerServer(registry);
await worker.start({ namespace: "ts", variables: { TASKER_ORCHESTRATION_URL: process.env.SERVER ?? "" } });
await say();
await worker.stop();
await say();
process.env.TASKER_ORCHESTRATION_URL = "ftp://x";
await say();
