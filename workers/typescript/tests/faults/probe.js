/** The probe of the fault tests for Node; see crates/tasker/src/commands/process/probe.rs. */

import { openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { defineHandler, RetryableError, StepHandlerResult } from "@tasker-systems/tasker";

/** @typedef {import("@tasker-systems/tasker").StepContext} StepContext */

const log = openSync(String(process.env.TASKER_BODY_LOG), "a");

/** @param {StepContext} context */
function position(context) {
  return (Number.parseInt(context.stepUuid.slice(-5), 16) & 0xfffff) - 1;
}

/**
 * @param {StepContext} context
 * @param {string} what
 */
function note(context, what) {
  writeSync(log, `${context.taskUuid} ${position(context)} ${context.attempt} ${what} ${process.pid}\n`);
}

/** @param {number} at */
function cursor(at) {
  return { batch_id: String(at + 1).padStart(3, "0"), start_cursor: at, end_cursor: at + 1, batch_size: 1 };
}

export const probe = defineHandler("faults.Probe", {}, async ({ context }) => {
  note(context, context.hasCheckpoint ? "resume" : "start");
  await sleep(Number(context.inputData.sleep_ms ?? 0));
  const config = context.stepConfig;
  if (context.attempt <= Number(config.fail_attempts ?? 0)) {
    note(context, "failed");
    throw new RetryableError("the probe was told to fail");
  }
  if (context.stepInputs.cursor !== undefined && !context.hasCheckpoint) {
    return StepHandlerResult.checkpointYield(1, 1, []);
  }
  /** @type {Record<string, unknown>} */
  const result = { step: position(context), attempt: context.attempt, pid: process.pid };
  if (config.choose) {
    result.decision_point_outcome = { type: "create_steps", step_names: config.choose };
  }
  if (config.batches) {
    const cursors = Array.from({ length: Number(config.batches) }, (_, at) => cursor(at));
    result.batch_processing_outcome = { type: "create_batches", cursor_configs: cursors };
  }
  note(context, "end");
  return result;
});
