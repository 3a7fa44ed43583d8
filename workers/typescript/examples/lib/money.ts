/** Money in whole cents: fractions would make a report differ from its recomputation. */

import type { Columns, Row } from "./csv.ts";

/** Bounded at the door, no sum over a file can leave the exact integers. */
const PRICE_LIMIT_CENTS = 10_000_000;
export const QUANTITY_LIMIT = 100_000;

/** A price with two decimals, such as `12.30`. */
export function readCents<C extends Columns>(row: Row<C>, column: C[number]): number {
  const text = row.check(column, row.text(column), (text) => /^\d+\.\d\d$/.test(text));
  return row.check(column, Number(text.replace(".", "")), (cents) => cents < PRICE_LIMIT_CENTS);
}

/** A share of the amount, a half cent rounded away from zero. */
export function percent(cents: number, share: number): number {
  return Math.trunc((cents * share + Math.sign(cents) * 50) / 100);
}

export function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}
