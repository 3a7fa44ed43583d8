/** What becomes of the work of processes that end, wanted or not. */

import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, inject, test } from "vitest";
import { CLI, eventually, HERE, lines, ran, Server, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
const folder = inject("folder");
const HANDLERS = join(HERE, "handlers");

function scratch(): string {
  return mkdtempSync(join(folder, "test-"));
}

function started(log: string, variables = {}): Promise<WorkerProcess> {
  return WorkerProcess.start(server, join(folder, `${log}.log`), { variables });
}

test("after kill -9 the next attempt goes on from the checkpoint", async () => {
  const log = join(scratch(), "log");
  const first = await started("first");
  const task = await server.create("batch", { items: 30, hang_at: 20, log });
  await eventually("the handler is at the second checkpoint", () => lines(log).includes("001 1 20"));
  await first.kill();
  const second = await started("second");
  expect((await server.wait(task)).status).toBe("complete");
  expect(lines(log)).toEqual(["001 1 0", "001 1 10", "001 1 20", "001 2 20"]);
  expect((await server.steps(task)).merge.results.total).toBe((29 * 30) / 2);
  expect(await second.terminate()).toBe(0);
});

test("at the end of the grace what still runs is told and tried elsewhere", async () => {
  const [log, deafLog] = [join(scratch(), "log"), join(scratch(), "log")];
  const worker = await started("impatient", { TASKER__WORKER__STOP_GRACE_MS: "300" });
  const task = await server.create("single", { do: "slow", log });
  const deaf = await server.create("single", { do: "never", log: deafLog });
  await eventually("both run", () => lines(log).length > 0 && lines(deafLog).length > 0);
  expect(await worker.terminate(), worker.errors()).toBe(0);
  expect(lines(log)[0]).toBe("begun");
  expect(lines(log)[1]).toMatch(/^AbortError: /);
  const second = await started("patient");
  for (const each of [task, deaf]) {
    expect((await server.wait(each)).status).toBe("complete");
    expect((await server.steps(each)).only.results.attempt).toBe(2);
  }
  expect(await second.terminate()).toBe(0);
});

test.each(["SIGTERM", "SIGINT"] as const)("%s lets running handlers end and claims no more", async (signal) => {
  const place = scratch();
  const [log, gate] = [join(place, "log"), join(place, "gate")];
  const worker = await started(`drained-${signal}`);
  const task = await server.create("single", { do: "gate", log, gate });
  await eventually("the handler runs", () => lines(log).length > 0);
  worker.process.kill(signal);
  writeFileSync(gate, "");
  expect(await worker.end(), worker.errors()).toBe(0);
  expect((await server.wait(task)).status).toBe("complete");
  expect((await server.steps(task)).only.results).toEqual({ pid: worker.pid, attempt: 1 });
});

test("a second signal does not wait for handlers", async () => {
  const log = join(scratch(), "log");
  const worker = await started("hurried", { TASKER__WORKER__STOP_GRACE_MS: "600000" });
  const task = await server.create("single", { do: "never", log });
  await eventually("the handler runs", () => lines(log).length > 0);
  await eventually("it has ended", () => {
    worker.process.kill("SIGTERM");
    return worker.hasEnded();
  });
  expect(await worker.end()).toBe(130);
  const second = await started("unhurried");
  expect((await server.wait(task)).status).toBe("complete");
  expect(await second.terminate()).toBe(0);
});

test("a worker that can't start says why", async () => {
  const cli = (more: string[], variables = {}) => ran([process.execPath, CLI, ...more], variables);
  const place = scratch();
  const named = ["--handlers", HANDLERS];
  const url = { DATABASE_URL: server.databaseUrl, TASKER_ORCHESTRATION_URL: server.url };
  expect(await cli(named)).toMatchObject({ status: 1, stderr: expect.stringContaining("set DATABASE_URL") });
  const misspelt = { ...url, TASKER__WORKER__CONCURENCY: "1" };
  expect(await cli(named, misspelt)).toMatchObject({ status: 1, stderr: expect.stringContaining("did you mean") });
  const empty = await cli(["--handlers", place], url);
  expect(empty).toMatchObject({ status: 1, stderr: expect.stringContaining("no handler in") });
  writeFileSync(join(place, "broken.yaml"), "name: 1");
  const broken = await cli([...named, "--templates", place], url);
  expect(broken).toMatchObject({ status: 1, stderr: expect.stringContaining("broken.yaml is refused") });
  const nobody = { ...url, TASKER_ORCHESTRATION_URL: "http://127.0.0.1:1" };
  const alone = await cli([...named, "--templates", join(HERE, "templates")], nobody);
  expect(alone).toMatchObject({ status: 1, stderr: expect.stringContaining("does not answer") });
  expect(await cli([])).toMatchObject({ status: 2, stderr: expect.stringContaining("--handlers") });
  expect(await cli([...named, "--wrong"])).toMatchObject({ status: 2, stderr: expect.stringContaining("--wrong") });
  expect(await cli(["--version"])).toMatchObject({ status: 0, stdout: "0.1.0\n" });
});

test("templates are registered by the worker", async () => {
  const more = ["--templates", join(HERE, "templates"), "--namespace", "ts"];
  const worker = await WorkerProcess.start(server, join(folder, "registering.log"), { more });
  expect(worker.said).toContain("flows.first");
  expect((await server.run("linear", { number: 0 })).status).toBe("complete");
  expect(await worker.terminate()).toBe(0);
});

test("a worker in a program refuses what makes no sense, and starts and stops without anything left over", async () => {
  const { databaseUrl, url } = server;
  const program = await ran([process.execPath, join(HERE, "programs/own.js")], {
    DATABASE_URL: databaseUrl,
    SERVER: url,
  });
  expect(program.status, program.stderr).toBe(0);
  const [first, ...said] = program.stdout.trim().split("\n");
  expect(first).toBe("already_running already_running stop_in_handler stopped stopped stopped");
  const [before = 0, after = 0] = said.map(Number);
  expect(before, "threads of Rust's and of the runtime").toBeGreaterThan(1);
  expect(after, "as many as after the first stop").toBeLessThanOrEqual(before);
});

test("a worker stops with the thread of the runtime that it was started on", async () => {
  const variables = { DATABASE_URL: server.databaseUrl };
  const program = await ran([process.execPath, join(HERE, "programs/thread.js")], variables);
  expect(program.status, program.stderr).toBe(0);
  const [before = 0, after = 0] = program.stdout.trim().split("\n").map(Number);
  expect(after, "Rust's threads have ended too").toBeLessThanOrEqual(before - 3);
});

test("a rehearsal runs as many steps as were asked for, without a database", async () => {
  const program = await ran([process.execPath, join(HERE, "../bench/rehearse.js"), "5000"]);
  expect(program.status, program.stderr).toBe(0);
  const { threads_start: before, threads_end: after, ...told } = JSON.parse(program.stdout);
  expect(after).toBeLessThanOrEqual(before);
  const numbers = ["seconds", "steps_per_s", "rss_mb_start", "rss_mb_end", "mb_per_10000_steps"];
  const expected = Object.fromEntries(numbers.map((name) => [name, expect.any(Number)]));
  expect(told).toEqual({ language: "typescript", steps: 5000, ...expected });
});
