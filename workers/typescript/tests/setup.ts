/** One server for all tests: `tasker dev` with a PostgreSQL of its own, in a folder that goes with it. */

import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { HERE, type Place, startServer } from "./support.ts";

declare module "vitest" {
  interface ProvidedContext {
    server: Place;
    folder: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = mkdtempSync(join(tmpdir(), "tasker-typescript-"));
  chmodSync(folder, 0o755);
  const server = await startServer(join(folder, "server"), join(HERE, "templates"));
  project.provide("server", server.place);
  project.provide("folder", folder);
  return async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  };
}
