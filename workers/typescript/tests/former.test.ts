/** Programs that were written for Tasker 0.1.x start and watch a worker. */

import { join } from "node:path";
import { EventEmitter, EventPoller, EventSystem, setLogger } from "@tasker-systems/tasker";
import { expect, inject, test } from "vitest";
import { HERE, ran } from "./support.ts";

test("a program with pollers, emitters and subscribers runs as it did", async () => {
  const { databaseUrl, url } = inject("server");
  const program = await ran([process.execPath, join(HERE, "programs/former.js")], {
    DATABASE_URL: databaseUrl,
    TASKER_ORCHESTRATION_URL: url,
  });
  expect(program.stdout, program.stderr).toBe("well\n");
});

test("an emitter carries names of the program's own, and forgets who listened with its end", async () => {
  const system = new EventSystem();
  const heard: unknown[] = [];
  system.start();
  expect(system.getEmitter()).toBeInstanceOf(EventEmitter);
  system.getEmitter().on("mine", (said) => heard.push(said));
  system.getEmitter().emit("mine", 1);
  await system.stop();
  system.getEmitter().emit("mine", 2);
  expect([heard, system.isRunning()]).toEqual([[1], false]);
});

test("log functions write to the package's log", async () => {
  const { logError, logTrace, setLogLevel } = await import("@tasker-systems/tasker");
  const told: string[] = [];
  const note = (message: string) => void told.push(message);
  setLogger({ error: note, warn: note, info: note, debug: note });
  setLogLevel("debug");
  logError("lost", { step: "charge" });
  logTrace("seen");
  setLogger(console);
  setLogLevel("info");
  expect(told).toEqual(['lost {"step":"charge"}', "seen"]);
  expect(new EventPoller().isRunning()).toBe(false);
});
