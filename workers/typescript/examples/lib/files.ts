/** Input files: read with a limit, refused with a reason that says whether trying again can help. */

import { readFile, stat } from "node:fs/promises";
import { RetryableError, ValidationError } from "@tasker-systems/tasker";
import { type Columns, type Row, rows } from "./csv.ts";

/** Large enough for any of the examples, small enough that a wrong path can't fill the memory. */
const LIMIT_BYTES = 8 * 1024 * 1024;

/** The whole file as text. */
export async function readText(path: string): Promise<string> {
  const bytes = await readBytes(path).catch((error) => {
    throw refusal(path, error);
  });
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw refused(path, "not UTF-8 text", "FILE_NOT_TEXT");
  }
}

/** The rows of a comma-separated file, each made by `make`, which may refuse a column. */
export function parseCsv<C extends Columns, T>(path: string, text: string, columns: C, make: (row: Row<C>) => T): T[] {
  try {
    return rows(text, columns).map(make);
  } catch (error) {
    throw refused(path, String((error as Error).message), "FILE_MALFORMED");
  }
}

/** {@link parseCsv} of a file. */
export async function readCsv<C extends Columns, T>(path: string, columns: C, make: (row: Row<C>) => T): Promise<T[]> {
  return parseCsv(path, await readText(path), columns, make);
}

/** The file as one JSON document that `parser` takes. */
export async function readJson<T>(path: string, parser: { parse(value: unknown): T }): Promise<T> {
  const text = await readText(path);
  try {
    return parser.parse(JSON.parse(text));
  } catch (error) {
    throw refused(path, String((error as Error).message), "FILE_MALFORMED");
  }
}

/** A file that is not the one that an earlier step saw. */
export function changed(path: string): ValidationError {
  return refused(path, "changed between two steps of the same task", "FILE_CHANGED");
}

/**
 * FNV-1a (Fowler, Noll, Vo), 64 bits: tells whether two steps saw the same file. It is no protection against a file made
 * to collide.
 */
export function fingerprint(text: string): string {
  const bytes = new TextEncoder().encode(text);
  const hash = bytes.reduce((hash, byte) => BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n), FNV_OFFSET);
  return hash.toString(16).padStart(16, "0");
}

const FNV_OFFSET = 0xcbf29ce484222325n;

async function readBytes(path: string): Promise<Uint8Array> {
  // Asked before opening: opening a pipe would wait for its writer.
  const about = await stat(path);
  if (!about.isFile()) {
    throw refused(path, "not a regular file", "FILE_NOT_REGULAR");
  }
  if (about.size > LIMIT_BYTES) {
    throw refused(path, `larger than ${LIMIT_BYTES} bytes`, "FILE_TOO_LARGE");
  }
  return readFile(path);
}

/** Only a failing disk or network share is worth another attempt: the others need a person. */
function refusal(path: string, error: NodeJS.ErrnoException): Error {
  switch (error.code) {
    case "ENOENT":
    case "ENOTDIR":
      return refused(path, "there is no such file", "FILE_MISSING");
    case "EACCES":
      return refused(path, "this worker may not read it", "FILE_FORBIDDEN");
    default:
      return error instanceof ValidationError
        ? error
        : new RetryableError(`${path}: ${error.message}`, { errorCode: "FILE_UNREADABLE" });
  }
}

function refused(path: string, why: string, errorCode: string): ValidationError {
  return new ValidationError(`${path}: ${why}`, { errorCode });
}
