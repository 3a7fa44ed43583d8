/** Real workflows with handlers in TypeScript's world. */

import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { raised, unsayable } from "./handlers/flows.js";
import { eventually, lines, Server, type Told, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
const folder = inject("folder");
let worker: WorkerProcess;

beforeAll(async () => {
  worker = await WorkerProcess.start(server, join(folder, "worker.log"));
});

afterAll(async () => {
  expect(await worker.terminate(), worker.errors()).toBe(0);
});

function scratch(): string {
  return mkdtempSync(join(folder, "test-"));
}

const ODD = {
  emoji: '\u{1f600} é ü \u202e \\ " \n',
  integers: [0, -(2 ** 53), 2 ** 53],
  floats: [1.5, 1e308, 5e-324, -0.5],
  "": [null, true, false, [], {}],
  __proto__: null,
  constructor: "c",
};

function nested(levels: number): unknown {
  return levels === 0 ? "bottom" : [nested(levels - 1)];
}

test("results are handed on from step to step", async () => {
  const steps = await server.run("linear", { number: 4 });
  expect(steps.status).toBe("complete");
  expect([steps.first.results, steps.second.results]).toEqual([{ number: 5 }, { number: 10 }]);
  expect(steps.third.results).toEqual({ numbers: [5, 10], attempt: 1 });
  expect(steps.undo.results, "another method of the same handler").toEqual({ undone: [5, 10] });
  const [attempt] = await server.audit(steps.third);
  expect(attempt.metadata).toEqual({ by: "a class" });
});

test.each([
  [5, "small"],
  [500, "large"],
  [0, null],
])("a decision creates what it names and no more: %s", async (amount, branch) => {
  const steps = await server.run("decision", { amount });
  expect(steps.status).toBe("complete");
  expect(["small", "large"].filter((name) => name in steps)).toEqual(branch === null ? [] : [branch]);
  if (branch !== null) {
    expect(steps.end.results).toContain(branch);
  }
});

test("batches are made, worked on in runs and brought together", async () => {
  const log = join(scratch(), "log");
  const steps = await server.run("batch", { items: 70, log });
  expect(steps.status).toBe("complete");
  expect(steps.merge.results).toEqual({ total: (69 * 70) / 2, worker_count: 3, scenario: "with_batches" });
  const runs = ["001 1 0", "001 1 10", "001 1 20", "002 1 30", "002 1 40", "002 1 50", "003 1 60"];
  expect(lines(log).sort()).toEqual(runs);
});

test("an empty split runs one worker that has nothing to do", async () => {
  const steps = await server.run("batch", { items: 0 });
  expect(steps.status).toBe("complete");
  expect(steps.work_000.results).toEqual({ no_op: true, items_processed: 0 });
  expect(steps.merge.results).toEqual({ total: 0, worker_count: 0, scenario: "no_batches" });
});

test("a retry comes after the time that the error asks for", async () => {
  const steps = await server.run("single", { do: "later" });
  expect(steps.only.results.attempt).toBe(2);
  const [first, second] = await server.audit(steps.only);
  expect(first.error).toMatchObject({ error_type: "retryable_error", retryable: true, message: "not yet" });
  const waited = Date.parse(second.started_at) - Date.parse(first.finished_at);
  expect(waited, "jitter may take a part of it").toBeGreaterThanOrEqual(1500 * 0.8);
});

test("a handler that takes too long is told by its signal, one that does not listen is left behind", async () => {
  const log = join(scratch(), "log");
  const steps = await server.run("hasty", { log, do: "slow" });
  const never = await server.run("hasty", { log: join(scratch(), "log") });
  expect([steps.status, never.status]).toEqual(["complete", "complete"]);
  for (const step of [steps.listening, never.deaf]) {
    const [first, second] = await server.audit(step);
    expect([first.error.error_type, second.outcome]).toEqual(["timeout", "success"]);
  }
  await eventually("the signal fires", () => lines(log).includes("AbortError: the attempt is timed out"));
});

test("a handler sees that its task was cancelled", async () => {
  const log = join(scratch(), "log");
  const task = await server.create("single", { do: "wait for cancel", log });
  await eventually("the handler runs", () => lines(log).includes("begun"));
  await server.call("DELETE", `/v1/tasks/${task}`);
  await eventually("the handler hears of it", () => lines(log).includes("cancelled true false"));
  expect((await server.wait(task)).status).toBe("cancelled");
});

test("a handler that blocks the event loop for longer than a lease keeps its claim", async () => {
  const steps = await server.run("single", { do: "block", ms: 5_000 });
  expect(steps.only.results).toEqual({ pid: worker.pid, attempt: 1 });
  expect(await server.audit(steps.only)).toHaveLength(1);
});

test("what a handler leaves behind is told and the worker lives on", async () => {
  const steps = await server.run("single", { do: "stray" });
  expect(steps.only.results).toEqual({ pid: worker.pid, attempt: 1 });
  for (const told of ["a stray rejection", "a stray error", "called process.exit(4)"]) {
    await eventually(told, () => worker.errors().includes(told));
  }
  expect((await server.run("single", {})).only.results.pid).toBe(worker.pid);
});

test("odd payloads come back as they went", async () => {
  const sent = { ...ODD, deep: nested(60), amount: 1 };
  const steps = await server.run("decision", sent);
  expect(steps.small.results).toEqual(sent);
});

test("numbers beyond the exact integers are handed on as what they are", async () => {
  const steps = await server.run("single", { do: "great" });
  expect(steps.only.results).toEqual({ integers: [1e20, 2 ** 53 + 2, -1e308], exact: 2 ** 53 });
});

test.each(unsayable)("what JSON can't carry fails for good with its place: %s", async (what) => {
  const steps = await server.run("single", { do: what });
  const [attempt, ...others] = await server.audit(steps.only);
  expect(attempt.error).toMatchObject({ error_type: "result_not_serializable", retryable: false });
  expect(others).toEqual([]);
  if (what !== "large") {
    expect(attempt.error.message).toContain("/x");
  }
});

test.each(
  raised.flatMap((what) => [
    [what, "single"],
    [what, "single_plain"],
  ]),
)("whatever is thrown is a failed attempt and the worker lives on: %s in %s", async (what, template) => {
  const steps = await server.run(template, { raise: what });
  const [first] = await server.audit(steps.only);
  expect(first.outcome).toBe("failure");
  if (what === "permanent") {
    expect(first.error).toMatchObject({ error_type: "validation_error", error_code: "E7", message: "never" });
    expect(first.metadata.field).toBe("amount");
    expect(steps.status).toBe("blocked_by_failures");
  } else {
    expect(first.error).toMatchObject({ error_type: "handler_error", retryable: true });
    expect(steps.only.results).toEqual({ pid: worker.pid, attempt: 2 });
  }
});

test("many handlers run at once", async () => {
  const context = { do: "meet", folder: scratch(), count: 40 };
  const tasks = await Promise.all(Array.from({ length: 40 }, () => server.create("single", context)));
  const ends: Told[] = await Promise.all(tasks.map((task) => server.wait(task)));
  expect(new Set(ends.map((task) => task.status))).toEqual(new Set(["complete"]));
});
