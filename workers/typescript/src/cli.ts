#!/usr/bin/env node
/** `tasker-worker --handlers DIR [--templates DIR]`. */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { TaskerError } from "./errors.ts";
import { LEVELS, type Level, setLogLevel } from "./log.ts";
import { native } from "./native.ts";
import { HandlerRegistry } from "./registry.ts";
import { ShutdownController } from "./shutdown.ts";
import { WorkerServer } from "./worker.ts";

const USAGE = `Runs the handlers of a folder until it is told to stop.

  tasker-worker --handlers DIR|FILE [--templates DIR] [--namespace NAME] [--log-level LEVEL]

  --handlers DIR|FILE   what its modules export is run; may be repeated
  --templates DIR       registers the templates of this folder at the server first
  --namespace NAME      claims from this namespace only; may be repeated
  --log-level LEVEL     error, warn, info or debug
  --version, --help`;

/** The command was called wrongly. */
class UsageError extends TaskerError {}

interface Options {
  handlers: string[];
  templates: string | undefined;
  namespaces: string[];
  logLevel: Level;
}

/** Runs the command; answers its exit status: 0 done, 1 failed, 2 wrong usage. */
async function main(given: string[]): Promise<number> {
  try {
    const options = read(given);
    if (typeof options === "string") {
      console.log(options);
      return 0;
    }
    return await work(options);
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(`error: ${error.message}\n\n${USAGE}`);
      return 2;
    }
    const { message, cause } = error instanceof TaskerError ? error : { message: "unexpected", cause: error };
    console.error(`error: ${message}`, ...(cause === undefined ? [] : [cause]));
    return 1;
  }
}

/** What is wanted, or what to print instead. */
function read(given: string[]): Options | string {
  const values = parsed(given);
  if (values.help) {
    return USAGE;
  }
  if (values.version) {
    return JSON.parse(native().version()).package;
  }
  const { handlers = [], templates, namespace: namespaces = [], "log-level": logLevel = "info" } = values;
  if (handlers.length === 0) {
    throw new UsageError("name the handlers: --handlers DIR");
  }
  if (!isLevel(logLevel)) {
    throw new UsageError(`--log-level is one of ${LEVELS.join(", ")}`);
  }
  return { handlers, templates, namespaces, logLevel };
}

function parsed(args: string[]) {
  try {
    const many = { type: "string", multiple: true } as const;
    const one = { type: "string" } as const;
    const flag = { type: "boolean" } as const;
    const options = { handlers: many, templates: one, namespace: many, "log-level": one, version: flag, help: flag };
    return parseArgs({ args, options, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function isLevel(text: string): text is Level {
  return (LEVELS as readonly string[]).includes(text);
}

async function work({ handlers, templates, namespaces, logLevel }: Options): Promise<number> {
  setLogLevel(logLevel);
  const registry = HandlerRegistry.instance();
  for (const place of handlers) {
    if ((await registry.loadFromPath(place)) === 0) {
      throw new TaskerError(`there is no handler in ${place}`);
    }
  }
  if (templates !== undefined) {
    await register(templates);
  }
  const shutdown = new ShutdownController();
  shutdown.listen();
  const worker = await new WorkerServer(registry).start({ namespaces });
  console.log(`worker ${worker.workerId} runs ${registry.listHandlers().join(", ")}`);
  await Promise.race([shutdown.promise, worker.wait()]);
  if (!worker.isRunning()) {
    return 1;
  }
  await worker.stop();
  return 0;
}

async function register(folder: string): Promise<void> {
  const url = process.env.TASKER_ORCHESTRATION_URL || "http://127.0.0.1:8080";
  const files = (await readdir(folder)).filter((name) => /\.ya?ml$/.test(name)).sort();
  if (files.length === 0) {
    throw new TaskerError(`there is no template in ${folder}`);
  }
  for (const path of files.map((name) => join(folder, name))) {
    const body = JSON.stringify({ yaml: await readFile(path, "utf8") });
    const answer = await posted(`${url}/v1/templates`, body);
    if (!answer.ok) {
      throw new TaskerError(`${path} is refused: ${await answer.text()}`);
    }
  }
}

async function posted(url: string, body: string): Promise<Response> {
  try {
    const headers = { "content-type": "application/json" };
    return await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(30_000) });
  } catch (error) {
    const remedy = "start a server, or name another in TASKER_ORCHESTRATION_URL";
    throw new TaskerError(`the server at ${url} does not answer: ${told(error)}; ${remedy}`);
  }
}

function told(error: unknown): string {
  return error instanceof Error ? String(error.cause instanceof Error ? error.cause.message : error.message) : "?";
}

// A handler that hangs on would keep the process.
process.exit(await main(process.argv.slice(2)));
