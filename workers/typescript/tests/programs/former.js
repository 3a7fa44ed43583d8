/** A program as they were written for Tasker 0.1.x. Prints `well` where all of it works. */

import assert from "node:assert/strict";
import {
  bootstrapWorker,
  EventPoller,
  EventSystem,
  getVersion,
  getWorkerStatus,
  HandlerSystem,
  healthCheck,
  isWorkerRunning,
  StepExecutionSubscriber,
  StepHandler,
  stopWorker,
  TaskerClient,
} from "@tasker-systems/tasker";

class Single extends StepHandler {
  static handlerName = "flows.single";

  /** @param {import("@tasker-systems/tasker").StepContext} context */
  async call(context) {
    return context.getInput("fail") ? this.failure("no", "x", false) : this.success({ a: context.getInput("a") });
  }
}

const handlers = new HandlerSystem();
handlers.register("flows.single", Single);
assert.deepEqual(handlers.listHandlers(), ["flows.single"]);
assert.equal(healthCheck().healthy, false);

const worker = await bootstrapWorker({ workerId: "former", namespace: "ts", logLevel: "error" });
assert.ok(isWorkerRunning() && worker.workerId === "former" && getVersion());
assert.deepEqual([getWorkerStatus().running, healthCheck().healthy], [true, true]);

const events = new EventSystem();
events.start();
const subscriber = new StepExecutionSubscriber();
subscriber.start();
/** @type {string[]} */
const told = [];
const ended = new Promise((resolve) => {
  for (const event of ["received", "completed", "failed"]) {
    events.getEmitter().on(`step.execution.${event}`, () => {
      told.push(event);
      if (event === "failed") {
        resolve(undefined);
      }
      if (event === "completed") {
        throw new Error("a listener may do this");
      }
    });
  }
});
const poller = new EventPoller();
/** @type {unknown[]} */
const failed = [];
/** @type {string[]} */
const steps = [];
poller.onStepEvent((step) => steps.push(step.step_name)).onError((error) => failed.push(error));
poller.onMetrics(() => {
  throw new Error("a callback may do this");
});
poller.start();

const client = new TaskerClient();
const first = await client.createTask({ name: "single", namespace: "ts", context: { a: 1 } });
assert.deepEqual((await client.waitTask(first.task_uuid, 60_000)).steps?.[0]?.results, { a: 1 });
const second = await client.createTask({ name: "single", namespace: "ts", context: { fail: true } });
assert.equal((await client.waitTask(second.task_uuid, 60_000)).status, "blocked_by_failures");
await ended;
assert.deepEqual(told, ["received", "completed", "received", "failed"]);
assert.deepEqual([steps, failed.length, poller.getMetrics().received], [["only", "only"], 2, 2]);
assert.ok(poller.isRunning() && subscriber.isRunning() && events.isRunning());

await Promise.all([poller.stop(), subscriber.stop(), events.stop()]);
await stopWorker();
assert.equal(isWorkerRunning(), false);
console.log("well");
