/** Handlers that are found by resolvers. */

import { join } from "node:path";
import { defineHandler, HandlerRegistry, type Resolver, StepHandler, TaskerClient } from "@tasker-systems/tasker";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { eventually, HERE, Server, type Told, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
let worker: WorkerProcess;

beforeAll(async () => {
  worker = await WorkerProcess.start(server, join(inject("folder"), "resolvers.log"));
});

afterAll(async () => {
  expect(await worker.terminate(), worker.errors()).toBe(0);
});

test("handlers are found by their paths and by resolvers of the user's", async () => {
  const { status, task: _, ...steps } = await server.run("by_path", {}, "ts_by_path");
  expect(status).toBe("complete");
  const results = Object.entries<Told>(steps).map(([name, step]) => [name, step.results]);
  expect(Object.fromEntries(results)).toEqual({
    outer: { found: "Outer", as: "by_path.inner.module.Outer" },
    undo: { found: "Outer.undo" },
    called: { found: "called" },
    shout: { said: "HELLO" },
    whisper: { said: "AGAIN" },
  });
});

test("the server lists what resolvers found", async () => {
  const wanted = [
    "@class_lookup",
    "@shout",
    "by_path.inner.module.Outer",
    "by_path.inner.module.Outer#undo",
    "by_path.inner.module.called@class_lookup",
    "shout:again",
    "shout:hello@shout",
  ];
  await eventually("all are listed", async () => {
    const { handlers } = await server.call("GET", "/v1/handlers/ts_by_path");
    const names = handlers.map(({ name }: Told) => name);
    return wanted.every((name) => names.includes(name));
  });
});

test("a template that comes later is found too, and what is not there waits", async () => {
  const client = new TaskerClient({ url: server.url });
  const made: string[] = [];
  for (const [name, handler] of [
    ["late", "by_path.inner.module.Outer"],
    ["never", "by_path.inner.module.Nobody"],
  ] as const) {
    const head = `name: ${name}\nnamespace_name: ts_${name}\nversion: 1.0.0\n`;
    await server.call("POST", "/v1/templates", { yaml: `${head}steps:\n  - {name: only, handler: ${handler}}\n` });
    made.push((await client.createTask({ name, namespace: `ts_${name}` })).task_uuid);
  }
  const [late = "", never = ""] = made;
  expect((await client.waitTask(late, 60_000)).status).toBe("complete");
  expect((await client.explain(never)).steps[0].code).toBe("no_live_worker");
  await client.cancelTask(never);
});

test("only what was loaded from a path is found by it, with the methods that it has", async () => {
  const registry = new HandlerRegistry();
  expect(registry.resolverNames()).toEqual([]);
  expect(await registry.find("class_lookup", "by_path.inner.module.Outer", "call")).toBe(undefined);
  const loaded = new HandlerRegistry();
  await loaded.loadFromPath(join(HERE, "handlers"));
  expect(loaded.resolverNames()).toEqual(["class_lookup"]);
  const find = (path: string, method = "call") => loaded.find("class_lookup", path, method);
  expect((await find("by_path.inner.module.Outer", "undo"))?.handlerName).toBe("another.name");
  for (const path of ["", "by_path.inner.module", "by_path.inner.module.Shout", "fs.readFile", "__proto__"]) {
    expect(await find(path), path).toBe(undefined);
  }
  expect(await find("by_path.inner.module.called", "undo")).toBe(undefined);
});

test("a resolver is asked once, and one that throws or answers nonsense knows nothing", async () => {
  const registry = new HandlerRegistry();
  const Found = defineHandler("found", {}, () => 1);
  let asked = 0;
  const counting: Resolver = async () => {
    asked += 1;
    return Found;
  };
  registry.registerResolver("counts", counting);
  registry.registerResolver("counts", counting);
  registry.registerResolver("throws", () => {
    throw undefined;
  });
  registry.registerResolver("nonsense", () => 7 as never);
  registry.registerResolver("abstract", () => StepHandler as never);
  expect(registry.resolverNames()).toEqual(["counts", "throws", "nonsense", "abstract"]);
  const found = registry.resolverNames().map((name) => registry.find(name, "a", "call"));
  expect(await Promise.all(found)).toEqual([Found, undefined, undefined, undefined]);
  expect(await registry.find("counts", "a", "call")).toBe(Found);
  expect(asked).toBe(1);
  for (const taken of ["throws", "class_lookup"]) {
    expect(() => registry.registerResolver(taken, () => null)).toThrow("registered already");
  }
});
