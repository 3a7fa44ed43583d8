/** What JSON can carry to every language, and where a value can't. */

/** A value of JSON, whose shape only the handler knows. */
// biome-ignore lint/suspicious/noExplicitAny: what other programs wrote has no type here
export type Json = any;

/** An object of JSON. */
export type Fields = Record<string, Json>;

type Path = (string | number)[];

const MAX_INTEGER = 2 ** 53;
/** The worker's own limit is lower, and configurable; this one keeps the encoder within its stack. */
const MAX_DEPTH = 256;

/** The message says where the value lies, as a JSON pointer. */
export class NotPortable extends Error {}

/** The value as JSON text, exactly; throws {@link NotPortable} where that can't be said. */
export function encode(what: string, value: unknown): string {
  const at: Place = { what, path: [], above: new Set() };
  try {
    return written(at, value);
  } catch (error) {
    if (error instanceof NotPortable) {
      throw error;
    }
    // A getter, a proxy, a toJSON: code of the value's own.
    throw refused(at, "can't be read: what it does itself throws");
  }
}

/** Where the encoder is. */
interface Place {
  what: string;
  path: Path;
  /** The containers around it. */
  above: Set<object>;
}

function written(at: Place, value: unknown): string {
  switch (typeof value) {
    case "string":
      return text(at, value);
    case "number":
      return number(at, value);
    case "boolean":
      return value ? "true" : "false";
    case "bigint":
      return integer(at, value);
    case "undefined":
      throw refused(at, "is undefined, which JSON has not; leave it out or say null");
    case "object":
      return value === null ? "null" : container(at, value);
    default:
      throw refused(at, `is a ${typeof value}, which JSON has not; convert it first`);
  }
}

function text(at: Place, value: string): string {
  if (!value.isWellFormed()) {
    throw refused(at, "contains half of a surrogate pair, which is not a character");
  }
  return JSON.stringify(value);
}

function number(at: Place, value: number): string {
  if (!Number.isFinite(value)) {
    throw refused(at, `is ${value}, which is no number in JSON; say it as null or as text`);
  }
  // Beyond this a number is no exact integer any more: with an exponent it is read as what it is.
  return Math.abs(value) > MAX_INTEGER ? value.toExponential() : JSON.stringify(value);
}

function integer(at: Place, value: bigint): string {
  if (value > MAX_INTEGER || value < -MAX_INTEGER) {
    throw refused(at, "is an integer beyond ±2^53, which some languages would round; say it as text");
  }
  return String(value);
}

function container(at: Place, given: object): string {
  if (at.path.length > MAX_DEPTH) {
    throw refused({ ...at, path: at.path.slice(0, 8) }, `is nested deeper than ${MAX_DEPTH} levels`);
  }
  const value = opened(at, given);
  if (typeof value !== "object" || value === null) {
    return written(at, value);
  }
  if (at.above.has(value)) {
    throw refused(at, "contains itself");
  }
  at.above.add(value);
  const said = Array.isArray(value) ? array(at, value) : object(at, value as Record<string, unknown>);
  at.above.delete(value);
  return said;
}

/** What a value says of itself: a date is text. */
function opened(at: Place, value: object): unknown {
  const { toJSON } = value as { toJSON?: unknown };
  // A Buffer would say of itself what no other language expects.
  if (typeof toJSON === "function" && !ArrayBuffer.isView(value)) {
    return toJSON.call(value, String(at.path.at(-1) ?? ""));
  }
  return value;
}

function array(at: Place, value: unknown[]): string {
  const items: string[] = [];
  // By index, so that what is missing counts as undefined.
  for (let index = 0; index < value.length; index++) {
    items.push(below(at, value, index));
  }
  return `[${items.join(",")}]`;
}

function object(at: Place, value: Record<string, unknown>): string {
  const kind = Object.prototype.toString.call(value).slice(8, -1);
  if (kind !== "Object") {
    throw refused(at, `is of type ${kind}, which JSON has not; convert it first`);
  }
  if (Object.getOwnPropertySymbols(value).length > 0) {
    throw refused(at, "has a key that is a symbol; keys are text");
  }
  const members = Object.keys(value).map((key) => `${text(at, key)}:${below(at, value, key)}`);
  return `{${members.join(",")}}`;
}

function below<K extends string | number>(at: Place, value: Record<K, unknown>, key: K): string {
  at.path.push(key);
  // Read only now, so that a getter that throws has its place.
  const said = written(at, value[key]);
  at.path.pop();
  return said;
}

function refused(at: Place, why: string): NotPortable {
  const pointer = at.path.map((key) => `/${String(key).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
  return new NotPortable(`${at.what}${pointer ? ` at ${pointer}` : ""} ${why}`);
}
