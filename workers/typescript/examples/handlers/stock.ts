/**
 * Valuing a stock with checkpoints (template `checkpoint_resume`): what was counted before a failure is not counted again.
 */

import { defineHandler, RetryableError, StepHandlerResult } from "@tasker-systems/tasker";
import { products } from "../lib/catalogue.ts";
import { readText } from "../lib/files.ts";

/** The totals so far. */
interface Counted {
  units: number;
  stock_value_cents: number;
  /** The row that each attempt began with. */
  began_at: number[];
}

const inputs = { path: "products_file", failAt: "fail_at" } as const;

export const value = defineHandler("stock.Value", { inputs }, async ({ path, failAt, context }) => {
  const rows = products(path, await readText(path));
  const start: number = context.checkpointCursor ?? 0;
  const counted: Counted = context.accumulatedResults ?? { units: 0, stock_value_cents: 0, began_at: [] };
  if (counted.began_at.length < context.attempt) {
    counted.began_at.push(start);
  }
  if (failAt === start && !context.isRetry()) {
    throw new RetryableError(`interrupted at row ${start}`);
  }
  const end = Math.min(start + context.getConfig<number>("stride"), rows.length);
  for (const { stock, priceCents } of rows.slice(start, end)) {
    counted.units += stock;
    counted.stock_value_cents += stock * priceCents;
  }
  return end < rows.length
    ? StepHandlerResult.checkpointYield(end, end, counted)
    : { products: rows.length, ...counted };
});
