/** The client against a real server. */

import { join } from "node:path";
import { ClientError, TaskerClient, type TaskRecord } from "@tasker-systems/tasker";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { HERE, ran, Server, type Told, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
const client = new TaskerClient({ url: server.url, initiator: "the tests" });
let worker: WorkerProcess;

beforeAll(async () => {
  worker = await WorkerProcess.start(server, join(inject("folder"), "client.log"));
});

afterAll(async () => {
  expect(await worker.terminate(), worker.errors()).toBe(0);
});

test("a task is created, waited for and looked into", async () => {
  const task = { name: "linear", namespace: "ts", context: { number: 4 }, tags: ["a"], priority: 7 };
  const made = await client.createTask(task);
  const said = { version: "1.0.0", initiator: "the tests", source_system: "tasker", reason: "Task requested" };
  expect(made).toMatchObject({ ...said, tags: ["a"], priority: 7 });
  const ended = await client.waitTask(made.task_uuid);
  expect(ended).toMatchObject({ status: "complete", completed_steps: 4, context: { number: 4 } });
  expect((await client.getTask(made.task_uuid)).completion_percentage).toBe(100);
  const steps = await client.listTaskSteps(made.task_uuid);
  const third = steps.find(({ name }) => name === "third")?.step_uuid ?? "";
  expect((await client.getStep(made.task_uuid, third)).results).toEqual({ numbers: [5, 10], attempt: 1 });
  const attempts = await client.getStepAuditHistory(made.task_uuid, third);
  expect(attempts).toMatchObject([{ outcome: "success", metadata: { by: "a class" } }]);
  expect((await client.getTaskHistory(made.task_uuid))[0]?.cause).toBe("started");
  expect((await client.explain(made.task_uuid)).steps).toEqual([]);
});

test("many are created at once, each on its own, and listed page by page", async () => {
  const wanted = [0, 1, 2].map((number) => ({ name: "linear", namespace: "ts", context: { number }, tags: ["bulk"] }));
  const made = await client.createTasks([...wanted, { name: "nothing", namespace: "ts" }]);
  expect(made.map(({ status }) => status)).toEqual([201, 201, 201, 404]);
  expect(made[3]?.error.code).toBe("TEMPLATE_NOT_FOUND");
  const seen: TaskRecord[] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const page = await client.listTasks({ namespace: "ts", tag: "bulk", limit: 2, ...(cursor && { cursor }) });
    seen.push(...page.tasks);
    cursor = page.pagination.has_next ? page.pagination.next_cursor : null;
  }
  const uuids = (tasks: (TaskRecord | undefined)[]) => tasks.map((task) => task?.task_uuid).sort();
  expect(uuids(seen)).toEqual(uuids(made.slice(0, 3).map(({ task }) => task)));
});

test("the same idempotency key is the same task", async () => {
  const create = () => client.createTask({ name: "single", namespace: "ts", version: null, idempotency_key: "once" });
  const [first, second] = [await create(), await create()];
  expect(second.task_uuid).toBe(first.task_uuid);
});

test("a wait ends with its time, and a cancelled task is cancelled again", async () => {
  const { task_uuid: task } = await client.createTask({ name: "orphan", namespace: "nobody" });
  expect(["complete", "cancelled"]).not.toContain((await client.waitTask(task, 100)).status);
  expect((await client.explain(task)).steps[0].code).toBe("no_live_worker");
  expect([(await client.cancelTask(task)).status, (await client.cancelTask(task)).status]).toEqual([
    "cancelled",
    "cancelled",
  ]);
  expect((await client.waitTask(task)).status).toBe("cancelled");
});

test("templates are listed and the server says how it is, to many at once", async () => {
  const { templates } = await client.listTemplates({ namespace: "ts" });
  expect(templates.map(({ name }) => name)).toEqual(expect.arrayContaining(["linear", "single"]));
  const said = await Promise.all(Array.from({ length: 16 }, () => client.healthCheck()));
  expect(said.map(({ status }) => status)).toEqual(Array(16).fill("healthy"));
});

test.each<[string, () => Promise<unknown>, string, number | undefined]>([
  ["no such template", () => client.createTask({ name: "nothing", namespace: "ts" }), "TEMPLATE_NOT_FOUND", 404],
  ["the namespace is `default`", () => client.createTask({ name: "linear" }), "TEMPLATE_NOT_FOUND", 404],
  [
    "no such version",
    () => client.createTask({ name: "linear", namespace: "ts", version: "9.9.9" }),
    "TEMPLATE_NOT_FOUND",
    404,
  ],
  ["a misspelt key", () => client.createTask({ name: "linear", namespace: "ts", prority: 1 }), "USAGE", undefined],
  ["no uuid", () => client.getTask("no uuid"), "USAGE", undefined],
  ["nobody there", () => new TaskerClient({ url: "http://127.0.0.1:1" }).healthCheck(), "UNREACHABLE", undefined],
  ["no such scheme", () => new TaskerClient({ url: "ftp://x" }).healthCheck(), "USAGE", undefined],
])("a refusal is an error with the server's code: %s", async (_, call, code, status) => {
  const error: Told = await call().catch((error) => error);
  expect(error).toBeInstanceOf(ClientError);
  expect([error.code, error.status]).toEqual([code, status]);
});

test("an input that the template's schema refuses is told with its place", async () => {
  const wrong = { name: "strict", namespace: "nobody", context: { number: "x" } };
  const error = await client.createTask(wrong).catch((error) => error);
  expect(error.status).toBe(422);
  expect(JSON.stringify(error.details)).toContain("number");
});

test("the address is the running worker's, else the configuration's, and a wrong one is told", async () => {
  const program = await ran([process.execPath, join(HERE, "programs/client.js")], {
    DATABASE_URL: server.databaseUrl,
    TASKER_ORCHESTRATION_URL: "http://127.0.0.1:1",
    SERVER: server.url,
  });
  expect(program.status, program.stderr).toBe(0);
  expect(program.stdout.trim().split("\n")).toEqual(["UNREACHABLE", "healthy", "UNREACHABLE", "bad_config"]);
});
