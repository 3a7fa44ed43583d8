/** Comma-separated files as RFC 4180 has them: quoted fields, doubled quotes, LF or CRLF, one header line. */

/** The names of the header, in their order. */
export type Columns = readonly string[];

/** A quoted field, or one that is not. */
const FIELD = /"((?:[^"]|"")*)"|([^,\n]*)/y;

/** One row. Each method reads a column, and refuses it by throwing an error that names the line. */
export class Row<C extends Columns> {
  readonly #line: number;
  readonly #fields: Record<string, string>;

  constructor(line: number, fields: Record<string, string>) {
    this.#line = line;
    this.#fields = fields;
  }

  /** Text that is not empty. */
  text(column: C[number]): string {
    return this.check(column, this.#fields[column] ?? "", (text) => text !== "");
  }

  /** A whole number. */
  integer(column: C[number], low: number, high: number): number {
    const text = this.check(column, this.text(column), (text) => /^[+-]?\d+$/.test(text));
    return this.check(column, Number(text), (number) => number >= low && number <= high);
  }

  /** The value, where it is right. */
  check<T>(column: C[number], value: T, isRight: (value: T) => boolean): T {
    if (!isRight(value)) {
      throw new Error(`line ${this.#line}: column \`${column}\` holds no usable value`);
    }
    return value;
  }
}

/** All rows below a header that must be exactly `columns`. Empty lines are skipped. */
export function rows<C extends Columns>(text: string, columns: C): Row<C>[] {
  const [header, ...below] = records(text);
  if (header?.fields.join(",") !== columns.join(",")) {
    throw new Error(`line 1: the header must be \`${columns.join(",")}\``);
  }
  return below.map(({ line, fields }) => {
    if (fields.length !== columns.length) {
      throw new Error(`line ${line}: ${fields.length} fields instead of ${columns.length}`);
    }
    return new Row<C>(line, Object.fromEntries(columns.map((column, at) => [column, fields[at] ?? ""])));
  });
}

interface Line {
  line: number;
  fields: string[];
}

function records(text: string): Line[] {
  const found: Line[] = [];
  let at = text.startsWith("\ufeff") ? 1 : 0;
  for (let line = 1; at < text.length; line++) {
    const record: Line = { line, fields: [] };
    let isMore = true;
    while (isMore) {
      FIELD.lastIndex = at;
      const [all = "", quoted, plain = ""] = FIELD.exec(text) ?? [];
      if (quoted === undefined && plain.startsWith('"')) {
        throw unended(line);
      }
      record.fields.push(quoted?.replaceAll('""', '"') ?? plain.replace(/\r$/, ""));
      line += all.split("\n").length - 1;
      at += all.length;
      isMore = text[at] === ",";
      at += isMore ? 1 : 0;
    }
    const end = text[at] === "\r" ? at + 1 : at;
    if (end < text.length && text[end] !== "\n") {
      throw unended(line);
    }
    at = end + 1;
    if (record.fields.length > 1 || record.fields[0] !== "") {
      found.push(record);
    }
  }
  return found;
}

function unended(line: number): Error {
  return new Error(`line ${line}: a quoted field has no end, or text follows its closing quote`);
}
