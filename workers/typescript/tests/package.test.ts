/** What is published works in an empty folder, as the README says. */

import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, inject, test } from "vitest";
import { HERE, ran, Server, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
const readme = readFileSync(join(HERE, "../README.md"), "utf8");

/** An addon with what a debugger needs takes long to pack. */
const PATIENCE_MS = 600_000;

/** The block below the first line that holds this text. */
function block(below: string): string {
  const after = readme.slice(readme.indexOf(below));
  const text = /\n```\w+\n(.*?)```/s.exec(after)?.[1];
  expect(text, `a block below ${below}`).toBeTypeOf("string");
  return text ?? "";
}

async function done(command: string[], cwd: string, variables = {}): Promise<string> {
  const { status, stdout, stderr } = await ran(command, variables, cwd);
  expect(status, `${command.join(" ")}: ${stdout}${stderr}`).toBe(0);
  return stdout;
}

/** What blocks without an import of their own take for granted. */
const PRELUDE = `import { BasePublisher, BaseSubscriber, type DomainEvent, HandlerRegistry, PublisherRegistry, StepHandler }
  from "@tasker-systems/tasker";
import { type StepEventContext, SubscriberRegistry, TaskerClient } from "@tasker-systems/tasker";
import { makeContext, run, runWorkflow } from "@tasker-systems/tasker/testing";
import { compose, deliver } from "./block0.js";
declare const expect: any, send: (payload: unknown) => Promise<void>;
declare class SqlFile extends StepHandler { call(): object }
const registry = HandlerRegistry.instance();
`;

/** Every block of TypeScript in the README is right as far as a compiler can say. */
async function typesHold(folder: string): Promise<void> {
  const blocks = [...readme.matchAll(/\n```ts\n(.*?)```/gs)].map(([, text = ""]) => text);
  expect(blocks.length).toBeGreaterThan(5);
  const files = blocks.map((text, at) => {
    const file = join(folder, `block${at}.ts`);
    const isWhole = text.includes('from "@tasker-systems/tasker";');
    writeFileSync(file, isWhole ? text : PRELUDE + text.replaceAll(/^import .*$/gm, ""));
    return file;
  });
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"];
  const types = ["--target", "es2024", "--types", join(HERE, "../node_modules/@types/node")];
  await done([join(HERE, "../node_modules/.bin/tsc"), ...options, ...types, ...files], folder);
}

test(
  "the package is installed into an empty folder and runs the README's first workflow",
  async () => {
    const folder = mkdtempSync(join(inject("folder"), "package-"));
    const packed = await done(["npm", "pack", "--silent", "--pack-destination", folder], join(HERE, ".."));
    for (const name of ["hello/templates/greeting.yaml", "hello/handlers/greeting.mjs"]) {
      const file = join(folder, name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, block(`\`${name}\``));
    }
    const hello = join(folder, "hello");
    await done(["npm", "init", "-y"], hello);
    await done(["npm", "install", "--offline", "--no-audit", "--no-fund", join("..", packed.trim())], hello);

    await typesHold(hello);
    const worker = await WorkerProcess.start(server, join(folder, "worker.log"), {
      program: [join(hello, "node_modules/.bin/tasker-worker")],
      handlers: join(hello, "handlers"),
      more: ["--templates", join(hello, "templates")],
    });
    expect(worker.said).toContain("hello.compose, hello.deliver");
    const [create = "", audit = ""] = block("**See the result**").split("\n");
    const tasker = process.env.TASKER_BIN ?? join(HERE, "../../../target/debug/tasker");
    const variables = { TASKER_ORCHESTRATION_URL: server.url, PATH: `${dirname(tasker)}:${process.env.PATH}` };
    const task = JSON.parse(await done(["sh", "-c", `${create.split("#")[0]} --json`], hello, variables));
    const steps = await server.steps(task.task_uuid);
    expect([task.status, steps.deliver.results]).toEqual(["complete", JSON.parse(block("this is the result of"))]);
    const said = await done(["sh", "-c", audit.replace("TASK", task.task_uuid)], hello, variables);
    expect(said).toContain("nobody was at home");
    expect(await server.audit(steps.deliver), "both attempts").toHaveLength(2);
    expect(await worker.terminate(), worker.errors()).toBe(0);
  },
  PATIENCE_MS,
);
