/** Which step's handler is running, and what it can't do to the process. */

import { AsyncLocalStorage } from "node:async_hooks";
import type { StepContext } from "./context.ts";
import { TaskerError } from "./errors.ts";
import { log } from "./log.ts";

/** The step, or whose code else it is. */
const current = new AsyncLocalStorage<StepContext | string>();

/** The step whose handler is running here, or ran the code that leads here; undefined elsewhere. */
export function currentStep(): StepContext | undefined {
  const runs = current.getStore();
  return typeof runs === "string" ? undefined : runs;
}

/** Runs a handler's code, so that {@link currentStep} knows of it, or that of somebody else who must not end the process. */
export function runAs<T>(runs: StepContext | string, code: () => T): T {
  return current.run(runs, code);
}

/** A handler wanted to end the process. */
export class ExitError extends TaskerError {}

let guards = 0;
let restore: (() => void) | undefined;

/**
 * Keeps handlers from ending the process, and with it the leases of all others, for as long as a worker runs:
 * `process.exit` throws where a handler calls it, and what a handler leaves behind unhandled is only told. A program
 * that listens to `unhandledRejection` or `uncaughtException` itself decides itself. Answers how to end it.
 */
export function guardProcess(): () => void {
  guards += 1;
  restore ??= guarded();
  let isOver = false;
  return () => {
    if (!isOver) {
      isOver = true;
      guards -= 1;
      if (guards === 0) {
        restore?.();
        restore = undefined;
      }
    }
  };
}

function guarded(): () => void {
  const exit = process.exit;
  const refusing = (code?: number | string | null): never => {
    const runs = current.getStore();
    if (runs !== undefined) {
      const who = typeof runs === "string" ? runs : `the handler of ${runs.stepName}`;
      throw new ExitError(`${who} called process.exit(${code ?? ""})`);
    }
    return exit.call(process, code);
  };
  process.exit = refusing;
  const heard = [listen("unhandledRejection"), listen("uncaughtException")];
  return () => {
    if (process.exit === refusing) {
      process.exit = exit;
    }
    for (const stop of heard) {
      stop();
    }
  };
}

function listen(event: "unhandledRejection" | "uncaughtException"): () => void {
  if (process.listenerCount(event) > 0) {
    return () => {};
  }
  const tell = (error: unknown) => log.error(`nobody caught ${described(error)}`);
  process.on(event as "uncaughtException", tell);
  return () => process.off(event, tell);
}

function described(error: unknown): string {
  try {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  } catch {
    return "what can't say what it is";
  }
}
