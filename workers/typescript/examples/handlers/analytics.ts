/**
 * An analytics pipeline (template `analytics_pipeline`): three sources are extracted and transformed side by side, joined,
 * and interpreted.
 */

import { defineHandler, ValidationError } from "@tasker-systems/tasker";
import { z } from "zod";
import { readCsv, readJson } from "../lib/files.ts";
import { QUANTITY_LIMIT, readCents, total } from "../lib/money.ts";

const SALES = ["date", "order_id", "customer_id", "sku", "quantity", "unit_price"] as const;
const STOCK = ["sku", "category", "warehouse", "on_hand"] as const;
/** Only the month is used, so the day is checked for its range alone. */
const DATE = /^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$/;

const Customer = z.object({ customer_id: z.string(), name: z.string(), country: z.string(), tier: z.string() });

/** A negative quantity is a return. */
interface Sale {
  month: string;
  customer_id: string;
  sku: string;
  quantity: number;
  unit_price_cents: number;
}

interface Stock {
  sku: string;
  category: string;
  on_hand: number;
}

type Cents = Record<string, number>;

export const extractSales = defineHandler(
  "analytics.ExtractSales",
  { inputs: { path: "sales_file" } },
  async (args) => {
    const isQuantity = (count: number) => count !== 0;
    const rows = await readCsv(args.path, SALES, (row): Sale => {
      const quantity = row.check("quantity", row.integer("quantity", -QUANTITY_LIMIT, QUANTITY_LIMIT), isQuantity);
      const date = row.check("date", row.text("date"), (date) => DATE.test(date));
      const [customer_id, sku] = [row.text("customer_id"), row.text("sku")];
      return { month: date.slice(0, 7), customer_id, sku, quantity, unit_price_cents: readCents(row, "unit_price") };
    });
    return { rows };
  },
);

export const extractCustomers = defineHandler(
  "analytics.ExtractCustomers",
  { inputs: { path: "customers_file" } },
  async ({ path }) => ({ rows: await readJson(path, z.array(Customer)) }),
);

export const extractStock = defineHandler(
  "analytics.ExtractStock",
  { inputs: { path: "stock_file" } },
  async (args) => {
    const rows = await readCsv(args.path, STOCK, (row): Stock => {
      const [sku, category] = [row.text("sku"), row.text("category")];
      return { sku, category, on_hand: row.integer("on_hand", 0, QUANTITY_LIMIT) };
    });
    return { rows };
  },
);

export const transformSales = defineHandler(
  "analytics.TransformSales",
  { depends: { extract: "extract_sales" } },
  ({ extract }) => {
    const sales = (extract.rows as Sale[]).map((sale) => ({ ...sale, cents: sale.unit_price_cents * sale.quantity }));
    const revenue = (some: typeof sales) => total(some.map(({ cents }) => cents));
    return {
      sold_cents: revenue(sales.filter(({ quantity }) => quantity > 0)),
      returned_cents: revenue(sales.filter(({ quantity }) => quantity < 0)),
      by_month: mapped(grouped(sales, "month"), revenue),
      by_customer: mapped(grouped(sales, "customer_id"), revenue),
      // Net of returns.
      by_sku: mapped(grouped(sales, "sku"), (some) => ({
        units: total(some.map(({ quantity }) => quantity)),
        revenue_cents: revenue(some),
      })),
    };
  },
);

export const transformCustomers = defineHandler(
  "analytics.TransformCustomers",
  { depends: { extract: "extract_customers" } },
  ({ extract }) => {
    const rows: z.infer<typeof Customer>[] = extract.rows;
    const count = (some: readonly unknown[]) => some.length;
    return {
      tier_of: Object.fromEntries(rows.map(({ customer_id, tier }) => [customer_id, tier])),
      by_tier: mapped(grouped(rows, "tier"), count),
      by_country: mapped(grouped(rows, "country"), count),
    };
  },
);

/** One entry per product: what its warehouses hold together. */
export const transformStock = defineHandler(
  "analytics.TransformStock",
  { depends: { extract: "extract_stock" } },
  ({ extract }) => {
    const rows: Stock[] = extract.rows;
    const units = (some: readonly Stock[]) => total(some.map(({ on_hand }) => on_hand));
    const of = (some: readonly Stock[]) => ({ category: some[0]?.category, on_hand: units(some) });
    return { by_sku: mapped(grouped(rows, "sku"), of), units: units(rows) };
  },
);

export const aggregate = defineHandler(
  "analytics.Aggregate",
  {
    depends: { sales: "transform_sales", customers: "transform_customers", stock: "transform_stock" },
    inputs: { days: "period_days" },
  },
  ({ sales, customers, stock, days }) => {
    const revenue_by_tier: Cents = {};
    for (const [id, cents] of Object.entries<number>(sales.by_customer)) {
      const tier = found(
        customers.tier_of as Record<string, string>,
        id,
        `sales name customer ${id}, whom the customer file does not have`,
      );
      revenue_by_tier[tier] = (revenue_by_tier[tier] ?? 0) + cents;
    }
    const revenue_by_category: Cents = {};
    const cover_days_by_sku: Record<string, number> = {};
    for (const [sku, { units, revenue_cents }] of Object.entries<Record<string, number>>(sales.by_sku)) {
      const held = found(
        stock.by_sku as Record<string, Stock>,
        sku,
        `sales name product ${sku}, which the stock file does not have`,
      );
      revenue_by_category[held.category] = (revenue_by_category[held.category] ?? 0) + (revenue_cents ?? 0);
      // What was only returned, or never sold, lasts for ever: it has no number of days.
      if (units !== undefined && units > 0) {
        cover_days_by_sku[sku] = Math.trunc((held.on_hand * days) / units);
      }
    }
    return {
      net_revenue_cents: sales.sold_cents + sales.returned_cents,
      revenue_by_month: sales.by_month,
      revenue_by_category,
      revenue_by_tier,
      revenue_per_customer_by_tier: mapped(customers.by_tier as Record<string, number>, (count, tier) =>
        Math.trunc((revenue_by_tier[tier] ?? 0) / count),
      ),
      cover_days_by_sku,
    };
  },
);

export const insights = defineHandler("analytics.Insights", { depends: { figures: "aggregate" } }, (args) => {
  const { figures, context } = args;
  const below: number = context.getConfig("cover_days_below");
  const best_month = largest(figures.revenue_by_month);
  const top_category = largest(figures.revenue_by_category);
  const most_valuable_tier = largest(figures.revenue_per_customer_by_tier);
  const covers = Object.entries<number>(figures.cover_days_by_sku).filter(([, days]) => days < below);
  const running_out = covers.map(([sku]) => sku).sort();
  const headlines = [
    best_month && `${best_month} was the best month`,
    top_category && `${top_category} is the top category`,
    most_valuable_tier && `${most_valuable_tier} customers spend the most each`,
    running_out.length > 0 && `${running_out.length} products last less than ${below} days`,
  ].filter(Boolean);
  const { net_revenue_cents } = figures;
  return { net_revenue_cents, best_month, top_category, most_valuable_tier, running_out, headlines };
});

function grouped<T extends Record<K, string>, K extends string>(rows: readonly T[], key: K): Record<string, T[]> {
  const groups: Record<string, T[]> = {};
  for (const row of rows) {
    groups[row[key]] ??= [];
    groups[row[key]]?.push(row);
  }
  return groups;
}

function mapped<T, U>(values: Record<string, T>, fn: (value: T, key: string) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, fn(value, key)]));
}

function found<T>(values: Record<string, T>, key: string, why: string): T {
  const value = values[key];
  if (value === undefined) {
    throw new ValidationError(why, { errorCode: "SOURCES_DO_NOT_FIT" });
  }
  return value;
}

/** The first by name, where several are equal; null where there is none. */
function largest(amounts: Cents): string | null {
  const sorted = Object.entries(amounts).sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1));
  return sorted[0]?.[0] ?? null;
}
