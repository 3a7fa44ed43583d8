/** The product catalogue: a CSV file that orders and the import both read. */

import { parseCsv } from "./files.ts";
import { QUANTITY_LIMIT, readCents } from "./money.ts";

const COLUMNS = ["sku", "name", "category", "price", "stock", "reorder_level", "weight_grams", "supplier"] as const;

export interface Product {
  sku: string;
  name: string;
  priceCents: number;
  stock: number;
  weightGrams: number;
}

/** Every product, in the file's order. A SKU that comes twice is refused: which of the two stocks holds? */
export function products(path: string, text: string): Product[] {
  const known = new Set<string>();
  return parseCsv(path, text, COLUMNS, (row) => {
    const sku = row.check("sku", row.text("sku"), (sku) => !known.has(sku));
    known.add(sku);
    const [stock, weightGrams] = (["stock", "weight_grams"] as const).map((at) => row.integer(at, 0, QUANTITY_LIMIT));
    return { sku, name: row.text("name"), priceCents: readCents(row, "price"), stock, weightGrams } as Product;
  });
}
