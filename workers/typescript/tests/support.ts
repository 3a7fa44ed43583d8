/** A server on a private PostgreSQL, workers, and a client for the tests. */

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, createWriteStream, existsSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const HERE = fileURLToPath(new URL(".", import.meta.url));
export const CLI = join(HERE, "../dist/cli.js");
const PATIENCE_MS = 60_000;
const TERMINAL = ["complete", "error", "cancelled", "blocked_by_failures"];

// Short times, so that a killed worker is missed soon.
const FAST = {
  TASKER_ENV: "test",
  TASKER__QUEUE__LEASE_MS: "2000",
  TASKER__WORKER__HEARTBEAT_MS: "400",
  TASKER__QUEUE__POLL_MAX_MS: "500",
};

// biome-ignore lint/suspicious/noExplicitAny: what the server says
export type Told = any;

/** Waits until it holds, and answers what it says. */
export async function eventually<T>(what: string, holds: () => T | Promise<T>): Promise<NonNullable<T>> {
  const until = performance.now() + PATIENCE_MS;
  while (performance.now() < until) {
    const value = await holds();
    if (value) {
      return value;
    }
    await sleep(20);
  }
  throw new Error(`it never came: ${what}`);
}

/** The lines of a file that handlers write; none before it is there. */
export function lines(file: string): string[] {
  return existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
}

/** Ours without what would configure Tasker, and with what the tests want. */
export function environment(more: Record<string, string> = {}): Record<string, string> {
  const own = Object.entries(process.env).filter(([name]) => !/^TASKER_|DATABASE_URL$|HANDLER_PATH$/.test(name));
  return { ...(Object.fromEntries(own) as Record<string, string>), ...FAST, ...more };
}

/** Where a server is. */
export interface Place {
  url: string;
  databaseUrl: string;
}

/** Starts `tasker dev` with these templates, and with a PostgreSQL of its own in this folder. */
export async function startServer(folder: string, templates: string, variables: Record<string, string> = {}) {
  const binary = process.env.TASKER_BIN ?? join(HERE, "../../../target/debug/tasker");
  mkdirSync(folder, { recursive: true });
  const log = openSync(join(folder, "server.log"), "w");
  const env = environment({ TASKER_WEB_BIND_ADDRESS: "127.0.0.1:0", ...variables });
  const given = ["dev", "--data-dir", join(folder, "postgres"), "--templates", templates];
  const child = spawn(binary, given, { env, stdio: ["ignore", "pipe", log] });
  closeSync(log);
  const ended = new Promise((resolve) => child.on("exit", resolve));
  let said = "";
  const found = await new Promise<RegExpExecArray | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("exit", () => resolve(null));
    child.stdout?.on("data", (chunk) => {
      said += chunk;
      if (said.includes("Ctrl-C")) {
        resolve(/DATABASE_URL=(\S+)[\s\S]*?API\s+(http:\/\/[^/\s]+)/.exec(said));
      }
    });
  });
  if (found === null) {
    throw new Error(`the server did not start: ${said}\n${readFileSync(join(folder, "server.log"), "utf8")}`);
  }
  const [, databaseUrl = "", url = ""] = found;
  const stop = async () => {
    child.kill("SIGTERM");
    await ended;
  };
  return { place: { databaseUrl, url }, stop };
}

/** A client of a server. */
export class Server {
  readonly url: string;
  readonly databaseUrl: string;

  constructor({ url, databaseUrl }: Place) {
    this.url = url;
    this.databaseUrl = databaseUrl;
  }

  async call(method: string, path: string, body?: unknown): Promise<Told> {
    const headers = { "content-type": "application/json" };
    const sent = body === undefined ? {} : { body: JSON.stringify(body) };
    const answer = await fetch(this.url + path, { method, headers, ...sent });
    if (!answer.ok) {
      throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    }
    return answer.json();
  }

  async create(name: string, context: unknown, namespace = "ts"): Promise<string> {
    return (await this.call("POST", "/v1/tasks", { namespace, name, context })).task_uuid;
  }

  /** The task once nothing of it can move any more. */
  wait(task: string): Promise<Told> {
    return eventually(`task ${task} ends`, async () => {
      const told = await this.call("GET", `/v1/tasks/${task}/wait?timeout_ms=5000`);
      return TERMINAL.includes(told.status) ? told : undefined;
    });
  }

  /** Runs a task; answers its steps by name, with `status` beside them. */
  async run(name: string, context: unknown, namespace?: string): Promise<Told> {
    const task = await this.create(name, context, namespace);
    const { status } = await this.wait(task);
    return { status, task, ...(await this.steps(task)) };
  }

  async steps(task: string): Promise<Told> {
    const listed = await this.call("GET", `/v1/tasks/${task}/workflow_steps`);
    return Object.fromEntries((listed.steps ?? listed).map((step: Told) => [step.name, step]));
  }

  async audit(step: Told): Promise<Told[]> {
    const listed = await this.call("GET", `/v1/tasks/${step.task_uuid}/workflow_steps/${step.step_uuid}/audit`);
    return listed.attempts ?? listed;
  }
}

/** How a program is started that runs handlers. */
export interface Command {
  program?: string[];
  handlers?: string;
  more?: string[];
  variables?: Record<string, string>;
}

/** `tasker-worker` with the handlers of the tests. */
export class WorkerProcess {
  readonly process: ChildProcess;
  readonly log: string;
  said = "";
  readonly #ended: Promise<number | null>;

  private constructor(server: Server, log: string, command: Command) {
    const { program = [process.execPath, CLI], handlers = join(HERE, "handlers"), more = [], variables = {} } = command;
    const [file = "", ...first] = program;
    const env = environment({
      DATABASE_URL: server.databaseUrl,
      TASKER_ORCHESTRATION_URL: server.url,
      ...variables,
    });
    this.log = log;
    this.process = spawn(file, [...first, "--handlers", handlers, ...more], { env, stdio: ["ignore", "pipe", "pipe"] });
    this.process.stderr?.pipe(createWriteStream(log));
    this.#ended = new Promise((resolve) => this.process.on("exit", resolve));
  }

  static async start(server: Server, log: string, command: Command = {}): Promise<WorkerProcess> {
    const worker = new WorkerProcess(server, log, command);
    worker.process.stdout?.on("data", (chunk) => {
      worker.said += chunk;
    });
    await eventually("the worker runs or has ended", () => worker.said.includes("\n") || worker.hasEnded());
    if (!worker.said.startsWith("worker ")) {
      throw new Error(`the worker did not start: ${worker.said}\n${readFileSync(log, "utf8")}`);
    }
    return worker;
  }

  hasEnded(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  get pid(): number {
    return this.process.pid ?? 0;
  }

  /** What it wrote to stderr. */
  errors(): string {
    return readFileSync(this.log, "utf8");
  }

  async kill(): Promise<void> {
    this.process.kill("SIGKILL");
    await this.#ended;
  }

  /** Its exit status after SIGTERM. */
  async terminate(): Promise<number | null> {
    this.process.kill("SIGTERM");
    return this.#ended;
  }

  /** Its exit status. */
  end(): Promise<number | null> {
    return this.#ended;
  }
}

/** Runs a program to its end. */
export async function ran(command: string[], variables: Record<string, string> = {}, cwd = process.cwd()) {
  const [file = "", ...more] = command;
  const child = spawn(file, more, { cwd, env: environment(variables), stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const status = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { status, stdout, stderr };
}
