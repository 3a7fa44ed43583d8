/** The addon: the functions of docs/boundary.md. */

import { createRequire } from "node:module";
import { WorkerError } from "./errors.ts";

/** A function refuses. */
interface Refusal {
  code: string;
  refused: string;
}

/** A running worker, on the other side. */
export interface NativeWorker {
  about(): string;
  poll(waitMs: number): Promise<string | Refusal>;
  complete(message: string): string | Refusal;
  heartbeat(message: string): string | Refusal;
  stop(graceMs?: number): Promise<null | undefined | Refusal>;
}

/** A client of one server. */
export interface NativeClient {
  call(message: string): Promise<string>;
}

/** A task in memory. */
export interface NativeSimulation {
  next(): string | Refusal;
  complete(message: string): string | Refusal;
  state(): string | Refusal;
}

/** What the addon offers. */
export interface Native {
  start(message: string): Promise<NativeWorker | Refusal>;
  client(url?: string): NativeClient | Refusal;
  simulate(message: string): NativeSimulation | Refusal;
  version(): string;
}

/** The version of the boundary that this package speaks. */
export const BOUNDARY_VERSION = 1;

let loaded: Native | undefined;

/** Loads the addon, once. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

/** What a function answered; throws where it refused. */
export function heard<T>(answer: T | Refusal): T {
  if (typeof answer === "object" && answer !== null && "refused" in answer) {
    throw new WorkerError(answer.code, answer.refused);
  }
  return answer as T;
}

function load(): Native {
  const file = `../prebuilt/${process.platform}-${process.arch}.node`;
  let found: Native;
  try {
    found = createRequire(import.meta.url)(file);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new WorkerError("no_addon", `the addon for ${process.platform}-${process.arch} can't be loaded: ${why}`);
  }
  const { boundary } = JSON.parse(found.version());
  if (boundary !== BOUNDARY_VERSION) {
    const message = `the addon speaks version ${boundary} of the boundary, this package ${BOUNDARY_VERSION}`;
    throw new WorkerError("version_mismatch", message);
  }
  return found;
}
