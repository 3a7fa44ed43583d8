/** Batches: a step that splits work, its workers, and the step that brings their results together. */

import { StepContext, type StepInputs } from "./context.ts";
import { ValidationError } from "./errors.ts";
import { StepHandler } from "./handler.ts";
import type { Fields, Json } from "./json.ts";
import { type HandlerBase, mixed, type With } from "./mixin.ts";
import { type Checkpoint, StepHandlerResult } from "./result.ts";

/** One batch: from `startCursor` up to and without `endCursor`. */
export interface CursorConfig {
  startCursor: Json;
  endCursor: Json;
  stepSize?: number;
  /** Numbered 001, 002, … where it is not given. */
  batchId?: string;
  batchSize?: number;
}

/** A split. */
export interface BatchAnalyzerOutcome {
  cursorConfigs: readonly CursorConfig[];
  totalItems?: number;
  batchMetadata?: Fields;
}

/** What became of a batch. */
export interface BatchWorkerOutcome {
  itemsProcessed: number;
  itemsSucceeded?: number;
  itemsFailed?: number;
  itemsSkipped?: number;
  results?: Json[];
  errors?: Json[];
  lastCursor?: Json;
  batchMetadata?: Fields;
}

/** The batch that a batch worker is to work on, and how far it got. */
export class BatchWorkerContext {
  readonly batchId: string;
  readonly startCursor: Json;
  /** Exclusive. */
  readonly endCursor: Json;
  readonly batchSize: number | undefined;
  /** Whether there is nothing to do. */
  readonly isNoOp: boolean;
  readonly checkpoint: Checkpoint | null;

  constructor(cursor: Fields, isNoOp: boolean, checkpoint: Checkpoint | null) {
    this.batchId = cursor.batch_id ?? "000";
    this.startCursor = cursor.start_cursor ?? null;
    this.endCursor = cursor.end_cursor ?? null;
    this.batchSize = cursor.batch_size;
    this.isNoOp = isNoOp;
    this.checkpoint = checkpoint;
  }

  /** The batch of a step; null where it is no batch worker. */
  static of(context: StepContext): BatchWorkerContext | null {
    const { cursor, isNoOp } = context.stepInputs;
    return cursor === undefined ? null : new BatchWorkerContext(cursor, isNoOp ?? false, context.checkpoint);
  }

  /** Whether an earlier run stored how far it got. */
  get hasCheckpoint(): boolean {
    return this.checkpoint !== null;
  }

  /** Where to go on: the stored cursor, or the batch's beginning. */
  get checkpointCursor(): Json {
    return this.checkpoint === null ? this.startCursor : this.checkpoint.cursor;
  }

  /** How many items were processed so far. */
  get checkpointItemsProcessed(): number {
    return this.checkpoint?.itemsProcessed ?? 0;
  }

  /** What was gathered so far; null at the first run. */
  get accumulatedResults(): Json {
    return this.checkpoint?.accumulatedResults ?? null;
  }
}

/** What the step that brings batches together finds. */
export interface BatchAggregationScenario {
  /** Whether there was nothing to split. */
  isNoBatches: boolean;
  batchableResult: Json;
  /** Of the batch workers, by step name. */
  batchResults: Record<string, Json>;
  /** How many of them have results here. */
  workerCount: number;
}

/** Looks at the results of the steps before; throws where they are not those of batches. */
export function detectAggregationScenario(
  given: StepContext | Record<string, Json>,
  batchableStepName: string,
  workerPrefix: string,
): BatchAggregationScenario {
  const results = given instanceof StepContext ? given.dependencyResults : given;
  if (!Object.hasOwn(results, batchableStepName)) {
    throw new Error(`Missing batchable step dependency: ${batchableStepName}`);
  }
  const batchableResult = results[batchableStepName];
  if (batchableResult?.batch_processing_outcome?.type === "no_batches") {
    return { isNoBatches: true, batchableResult, batchResults: {}, workerCount: 0 };
  }
  const found = Object.entries(results).filter(([step]) => step.startsWith(workerPrefix));
  if (found.length === 0) {
    throw new Error(`No batch workers found with the prefix ${workerPrefix}`);
  }
  return { isNoBatches: false, batchableResult, batchResults: Object.fromEntries(found), workerCount: found.length };
}

/** For handlers of steps of type `batchable` and `batch_worker`, and of those that bring batches together. */
export class BatchableMixin {
  /** One batch. */
  createCursorConfig(startCursor: Json, endCursor: Json, stepSize = 1): CursorConfig {
    return { startCursor, endCursor, stepSize };
  }

  /**
   * Splits `0..totalItems` into batches of `batchSize`, larger ones where there would be more than `maxBatches`. The
   * last one may be smaller.
   */
  createCursorRanges(totalItems: number, batchSize: number, stepSize = 1, maxBatches?: number): CursorConfig[] {
    if (!(Number.isInteger(batchSize) && batchSize >= 1)) {
      throw new RangeError("batchSize must be a whole number from 1");
    }
    const least = maxBatches === undefined ? 1 : Math.ceil(totalItems / Math.max(maxBatches, 1));
    const size = Math.max(batchSize, least);
    const cursors: CursorConfig[] = [];
    for (let start = 0; start < totalItems; start += size) {
      cursors.push({ startCursor: start, endCursor: Math.min(start + size, totalItems), stepSize });
    }
    return cursors;
  }

  /** Splits `0..totalItems` into at most `workerCount` batches of about the same size. */
  createCursorConfigs(totalItems: number, workerCount: number): CursorConfig[] {
    return totalItems <= 0 ? [] : this.createCursorRanges(totalItems, Math.ceil(totalItems / Math.max(workerCount, 1)));
  }

  /** A split of `0..totalItems`. */
  createBatchOutcome(totalItems: number, batchSize: number, batchMetadata: Fields = {}): BatchAnalyzerOutcome {
    return { cursorConfigs: this.createCursorRanges(totalItems, batchSize), totalItems, batchMetadata };
  }

  /** Makes a batch worker for each batch: of `workerTemplateName`, else of the template's only one. */
  batchAnalyzerSuccess(
    outcome: BatchAnalyzerOutcome,
    metadata?: Fields,
    workerTemplateName?: string,
  ): StepHandlerResult {
    const { cursorConfigs, totalItems, batchMetadata = {} } = outcome;
    if (cursorConfigs.length === 0) {
      return this.noBatchesResult("nothing to split", metadata);
    }
    const said: Fields = {
      type: "create_batches",
      worker_count: cursorConfigs.length,
      cursor_configs: cursorConfigs.map((config, at) => cursorOf(at + 1, config)),
    };
    if (workerTemplateName !== undefined) {
      said.worker_template_name = workerTemplateName;
    }
    if (totalItems !== undefined) {
      said.total_items = totalItems;
    }
    const result: Fields = {
      batch_processing_outcome: said,
      worker_count: cursorConfigs.length,
      total_items: totalItems ?? null,
    };
    if (Object.keys(batchMetadata).length > 0) {
      result.batch_metadata = batchMetadata;
    }
    return StepHandlerResult.success(result, { ...metadata, batch_analyzer: true });
  }

  /** Nothing to do: one batch worker runs that has nothing to do, so that what follows does. */
  noBatchesResult(reason = "", metadata?: Fields): StepHandlerResult {
    const result = { batch_processing_outcome: { type: "no_batches" }, reason };
    return StepHandlerResult.success(result, { ...metadata, batch_analyzer: true });
  }

  /** The batch that this step is to work on; null where it is no batch worker. */
  getBatchContext(context: StepContext): BatchWorkerContext | null {
    return BatchWorkerContext.of(context);
  }

  /** The same as `context.stepInputs`. */
  getBatchWorkerInputs(context: StepContext): StepInputs {
    return context.stepInputs;
  }

  /** The result of a batch worker that has nothing to do; null for one that has. Return it first of all. */
  handleNoOpWorker(context: StepContext): StepHandlerResult | null {
    return context.stepInputs.isNoOp ? noOpResult() : null;
  }

  /** The batch is done. */
  batchWorkerSuccess(outcome: BatchWorkerOutcome, metadata?: Fields): StepHandlerResult {
    const result = {
      items_processed: outcome.itemsProcessed,
      items_succeeded: outcome.itemsSucceeded ?? 0,
      items_failed: outcome.itemsFailed ?? 0,
      items_skipped: outcome.itemsSkipped ?? 0,
      results: outcome.results ?? [],
      errors: outcome.errors ?? [],
      last_cursor: outcome.lastCursor ?? null,
      batch_metadata: outcome.batchMetadata ?? {},
    };
    return StepHandlerResult.success(result, { ...metadata, batch_worker: true });
  }

  /** The batch is done, and some of its items failed; `errors` says which. */
  batchWorkerPartialFailure(outcome: BatchWorkerOutcome, metadata?: Fields): StepHandlerResult {
    return this.batchWorkerSuccess(outcome, { ...metadata, partial_failure: true });
  }

  /** Stores how far the step got and runs it again from there at once, in the same attempt. */
  checkpointYield(cursor: Json, itemsProcessed: number, accumulatedResults?: Json): StepHandlerResult {
    return StepHandlerResult.checkpointYield(cursor, itemsProcessed, accumulatedResults);
  }

  /** What there is to bring together. */
  detectAggregationScenario(
    given: StepContext | Record<string, Json>,
    batchableStepName: string,
    workerPrefix: string,
  ): BatchAggregationScenario {
    return detectAggregationScenario(given, batchableStepName, workerPrefix);
  }

  /** The result where there was nothing to split. */
  noBatchesAggregationResult(zeroMetrics: Fields = {}): StepHandlerResult {
    return StepHandlerResult.success({ ...zeroMetrics, worker_count: 0, scenario: "no_batches" });
  }

  /**
   * Brings the results of batch workers together: with `aggregate`, which is given them by step name, else as
   * {@link aggregateWorkerResults}.
   */
  aggregateBatchWorkerResults(
    scenario: BatchAggregationScenario,
    zeroMetrics: Fields = {},
    aggregate: (results: Record<string, Json>) => Fields = (all) => this.aggregateWorkerResults(Object.values(all)),
  ): StepHandlerResult {
    if (scenario.isNoBatches) {
      return this.noBatchesAggregationResult(zeroMetrics);
    }
    const merged = aggregate(scenario.batchResults);
    return StepHandlerResult.success({ ...merged, worker_count: scenario.workerCount, scenario: "with_batches" });
  }

  /** The sums of what {@link batchWorkerSuccess} counted, and all errors. */
  aggregateWorkerResults(results: readonly Json[]): Fields {
    const total = (key: string) => results.reduce((sum, result) => sum + (result?.[key] ?? 0), 0);
    return {
      total_processed: total("items_processed"),
      total_succeeded: total("items_succeeded"),
      total_failed: total("items_failed"),
      total_skipped: total("items_skipped"),
      batch_count: results.length,
      errors: results.flatMap((result) => result?.errors ?? []),
    };
  }
}

/** What a batch worker that has nothing to do returns. */
export function noOpResult(): StepHandlerResult {
  return StepHandlerResult.success({ no_op: true, items_processed: 0 }, { batch_worker: true });
}

function cursorOf(number: number, config: CursorConfig): Fields {
  if (typeof config !== "object" || config === null || config.startCursor === undefined) {
    throw new ValidationError("a batch has a startCursor and an endCursor");
  }
  const { startCursor, endCursor, batchId } = config;
  const isCounted = Number.isInteger(startCursor) && Number.isInteger(endCursor);
  const batchSize = config.batchSize ?? (isCounted ? endCursor - startCursor : undefined);
  return {
    batch_id: batchId ?? String(number).padStart(3, "0"),
    start_cursor: startCursor,
    ...(endCursor === undefined ? {} : { end_cursor: endCursor }),
    ...(batchSize !== undefined && batchSize >= 0 ? { batch_size: batchSize } : {}),
  };
}

/** Gives a class, or one instance, the methods of {@link BatchableMixin}. */
export function applyBatchable<Base extends HandlerBase>(target: Base): With<Base, BatchableMixin>;
export function applyBatchable<Handler extends StepHandler>(target: Handler): Handler & BatchableMixin;
export function applyBatchable(target: HandlerBase | StepHandler): unknown {
  return mixed(target, BatchableMixin);
}

/** A handler that splits work, does a part of it, or brings the parts together. */
export abstract class BatchableStepHandler extends applyBatchable(StepHandler) {
  override get capabilities(): string[] {
    return ["process", "batchable"];
  }
}
