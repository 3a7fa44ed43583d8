/** One server for all tests: `tasker dev` with a PostgreSQL of its own, in a folder that goes with it. */

import { spawn } from "node:child_process";
import { chmodSync, closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { environment, HERE, type Place } from "./support.ts";

declare module "vitest" {
  interface ProvidedContext {
    server: Place;
    folder: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = mkdtempSync(join(tmpdir(), "tasker-typescript-"));
  chmodSync(folder, 0o755);
  const binary = process.env.TASKER_BIN ?? join(HERE, "../../../target/debug/tasker");
  const log = openSync(join(folder, "server.log"), "w");
  const given = ["dev", "--data-dir", join(folder, "postgres"), "--templates", join(HERE, "templates")];
  const env = environment({ TASKER_WEB_BIND_ADDRESS: "127.0.0.1:0" });
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
  project.provide("server", { databaseUrl, url });
  project.provide("folder", folder);
  return async () => {
    child.kill("SIGTERM");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
}
