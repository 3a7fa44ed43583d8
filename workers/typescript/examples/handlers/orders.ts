/**
 * Order fulfilment (template `order_fulfillment`): validate → reserve → charge → ship, on an order file and the product
 * catalogue.
 *
 * The card network is simulated and times out as often as the template says, so that the retries of `charge` can be
 * watched. Nothing is written anywhere: the reservation and the charge exist in the steps' results only.
 */

import { defineHandler, PermanentError, RetryableError, ValidationError } from "@tasker-systems/tasker";
import { z } from "zod";
import { products } from "../lib/catalogue.ts";
import { readJson, readText } from "../lib/files.ts";
import { percent, total } from "../lib/money.ts";

const LINES_LIMIT = 200;
const QUANTITY_PER_LINE_LIMIT = 100;

/** The order as its file has it, and as `validate` hands it on. */
const Order = z.strictObject({
  order_id: z.string(),
  customer: z.strictObject({ name: z.string(), email: z.string() }),
  shipping_address: z.strictObject({
    street: z.string(),
    postal_code: z.string(),
    city: z.string(),
    country: z.string(),
  }),
  /** The token stands for a card at the payment provider; no card number ever gets here. */
  payment: z.strictObject({ method: z.string(), token: z.string() }),
  lines: z.array(z.strictObject({ sku: z.string(), quantity: z.int() })),
});
type Order = z.infer<typeof Order>;

interface Reservation {
  reservation_id: string;
  lines: { sku: string; name: string; quantity: number; unit_price_cents: number; total_cents: number }[];
  subtotal_cents: number;
  weight_grams: number;
}

export const validate = defineHandler("orders.Validate", { inputs: { path: "order_file" } }, async ({ path }) => {
  const order = await readJson(path, Order);
  const problems = [...problemsOfOrder(order), ...problemsOfLines(order.lines)];
  if (problems.length > 0) {
    throw new ValidationError(`the order is not valid: ${problems.join("; ")}`, { errorCode: "ORDER_INVALID" });
  }
  return order;
});

export const reserve = defineHandler(
  "orders.Reserve",
  { depends: { order: ["validate", Order] }, inputs: { path: "products_file" } },
  async ({ order, path }): Promise<Reservation> => {
    const known = new Map(products(path, await readText(path)).map((product) => [product.sku, product]));
    const unknown = order.lines.filter(({ sku }) => !known.has(sku));
    if (unknown.length > 0) {
      const skus = unknown.map(({ sku }) => sku).join(", ");
      throw new ValidationError(`the catalogue has no product ${skus}`, { errorCode: "PRODUCT_UNKNOWN" });
    }
    const wanted = order.lines.flatMap((line) => {
      const product = known.get(line.sku);
      return product === undefined ? [] : [{ ...line, product }];
    });
    const short = wanted.filter(({ product, quantity }) => product.stock < quantity);
    if (short.length > 0) {
      const each = short.map((line) => `${line.sku}: ${line.quantity} ordered, ${line.product.stock} there`);
      throw new PermanentError(`not enough in stock: ${each.join("; ")}`, { errorCode: "OUT_OF_STOCK" });
    }
    const lines = wanted.map(({ sku, quantity, product: { name, priceCents } }) => ({
      sku,
      name,
      quantity,
      unit_price_cents: priceCents,
      total_cents: priceCents * quantity,
    }));
    return {
      reservation_id: `reservation:${order.order_id}`,
      lines,
      subtotal_cents: total(lines.map((line) => line.total_cents)),
      weight_grams: total(wanted.map(({ product, quantity }) => product.weightGrams * quantity)),
    };
  },
);

export const charge = defineHandler("orders.Charge", { depends: { reservation: "reserve" } }, (args) => {
  const { reservation, context } = args;
  if (context.attempt <= context.getConfig<number>("simulated_timeouts")) {
    throw new RetryableError("card network timeout", { errorCode: "CARD_NETWORK_TIMEOUT" });
  }
  const { subtotal_cents } = reservation as Reservation;
  const tax_cents = percent(subtotal_cents, context.getConfig("vat_percent"));
  return {
    // The same on every attempt: a real provider recognises a repeated request by it.
    charge_id: `charge:${context.idempotencyKey}`,
    currency: context.getConfig("currency"),
    tax_cents,
    amount_cents: subtotal_cents + tax_cents,
    attempts: context.attempt,
  };
});

export const ship = defineHandler(
  "orders.Ship",
  { depends: { order: ["validate", Order], reservation: "reserve", charge: "charge" } },
  ({ order, reservation, charge, context }) => {
    const { weight_grams } = reservation as Reservation;
    const isDomestic = order.shipping_address.country === context.getConfig("home_country");
    const parcels = Math.ceil(Math.max(weight_grams, 1) / Math.max(context.getConfig("parcel_limit_grams"), 1));
    return {
      order_id: order.order_id,
      status: "shipped",
      carrier: isDomestic ? "domestic post" : "international courier",
      tracking_numbers: Array.from({ length: parcels }, (_, at) => `${order.order_id}-${at + 1}`),
      weight_grams,
      charged_cents: charge.amount_cents,
      currency: charge.currency,
      charge_attempts: charge.attempts,
    };
  },
);

/** All that is wrong, so that one correction is enough. */
function problemsOfOrder({ order_id, customer, shipping_address: address, payment }: Order): string[] {
  const texts = {
    order_id,
    "customer.name": customer.name,
    "shipping_address.street": address.street,
    "shipping_address.postal_code": address.postal_code,
    "shipping_address.city": address.city,
    "payment.token": payment.token,
  };
  const empty = Object.entries(texts).filter(([, text]) => text.trim() === "");
  return [
    ...empty.map(([field]) => `${field} is empty`),
    // Whether a mail could be sent there is for the mail server to say; this finds swapped fields.
    ...(/^[^\s@]+@[^\s@]*\.[^\s@]*$/.test(customer.email) ? [] : ["customer.email is no e-mail address"]),
    ...(/^[A-Z]{2}$/.test(address.country) ? [] : ["shipping_address.country is no ISO 3166 code of two letters"]),
    ...(payment.method === "card" ? [] : ["payment.method must be `card`"]),
  ];
}

function problemsOfLines(lines: Order["lines"]): string[] {
  if (lines.length === 0 || lines.length > LINES_LIMIT) {
    return [`lines must hold 1 to ${LINES_LIMIT} entries`];
  }
  return lines.flatMap(({ sku, quantity }, at) => [
    ...(quantity >= 1 && quantity <= QUANTITY_PER_LINE_LIMIT
      ? []
      : [`lines[${at}].quantity must be 1 to ${QUANTITY_PER_LINE_LIMIT}`]),
    ...(lines.findIndex((line) => line.sku === sku) === at ? [] : [`lines[${at}].sku comes twice`]),
  ]);
}
