/**
 * Importing a catalogue in batches (template `catalogue_import`): a step says how to split the file, a worker step is made
 * for each batch, and a convergence joins what they counted.
 */

import { defineBatchAnalyzer, defineBatchWorker, defineHandler, PermanentError } from "@tasker-systems/tasker";
import { products } from "../lib/catalogue.ts";
import { changed, fingerprint, readText } from "../lib/files.ts";
import { total } from "../lib/money.ts";

const inputs = { path: "products_file" } as const;

interface Imported {
  products: number;
  units: number;
  stock_value_cents: number;
}

/** Hands on row ranges, not rows, and makes sure that every batch reads the same file. */
export const split = defineBatchAnalyzer("catalogue.Split", { inputs }, async ({ path, context }) => {
  const text = await readText(path);
  return {
    totalItems: products(path, text).length,
    batchSize: context.batchConfig?.batchSize ?? 200,
    metadata: { fingerprint: fingerprint(text) },
  };
});

export const importBatch = defineBatchWorker(
  "catalogue.ImportBatch",
  { depends: { split: "split" }, inputs },
  async ({ path, split, batchContext }): Promise<Imported> => {
    const text = await readText(path);
    if (fingerprint(text) !== split.batch_metadata.fingerprint) {
      throw changed(path);
    }
    const rows = products(path, text).slice(batchContext.startCursor, batchContext.endCursor);
    return {
      products: rows.length,
      units: total(rows.map(({ stock }) => stock)),
      stock_value_cents: total(rows.map(({ stock, priceCents }) => stock * priceCents)),
    };
  },
);

export const totals = defineHandler("catalogue.Totals", { depends: { split: "split" } }, ({ split, context }) => {
  const batches = context.getAllDependencyResults<Partial<Imported>>("import_batch_");
  // A batch worker that had nothing to do counted nothing.
  const all = (key: keyof Imported) => total(batches.map((batch) => batch[key] ?? 0));
  const expected: number = split.total_items ?? 0;
  if (all("products") !== expected) {
    throw new PermanentError(`${all("products")} of ${expected} products were imported`);
  }
  const [units, stock_value_cents] = [all("units"), all("stock_value_cents")];
  return { batches: batches.length, products: expected, units, stock_value_cents };
});
