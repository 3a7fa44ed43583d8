/** Handlers by the name that templates call. */

import { readdir, stat } from "node:fs/promises";
import { dirname, extname, join, relative, resolve, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { ConfigurationError } from "./errors.ts";
import {
  checkHandler,
  type HandlerClass,
  handlerMethods,
  handlerName,
  isHandlerClass,
  type StepHandler,
} from "./handler.ts";
import { log } from "./log.ts";
import { ofThrown } from "./outcome.ts";

/** Modules of a folder; tests and declarations are none. */
const MODULE = /^[^.].*(?<!\.(d|test|spec))\.[cm]?[jt]s$/;
const TYPED = /\.[cm]?ts$/;

/** The resolver that finds handlers by where they are. */
const CLASS_LOOKUP = "class_lookup";

type Found = HandlerClass | null | undefined;

/** From a callable and a method that a template names to the class of a handler that has the method, if there is one. */
export type Resolver = (callable: string, method: string) => Found | Promise<Found>;

/** The handlers that a worker runs. Most programs have one: {@link instance}. */
export class HandlerRegistry {
  static #instance: HandlerRegistry | undefined;
  readonly #handlers = new Map<string, HandlerClass>();
  readonly #resolvers = new Map<string, Resolver>();
  readonly #resolved = new Map<string, Promise<HandlerClass | undefined>>();
  /** What was loaded, by its path: `folder.module.Export`. */
  readonly #byPath = new Map<string, HandlerClass>();

  /** The one of this process. */
  static instance(): HandlerRegistry {
    HandlerRegistry.#instance ??= new HandlerRegistry();
    return HandlerRegistry.#instance;
  }

  /**
   * Registers a handler class under a name or, without one, its own. Throws where another one has the name: one of the
   * two would never run.
   */
  register(handler: HandlerClass): void;
  register(name: string, handler: HandlerClass): void;
  register(first: string | HandlerClass, second?: HandlerClass): void {
    const [name, handler] = typeof first === "string" ? [first, second] : ["", first];
    checkHandler(handler);
    const knownAs = name || handlerName(handler);
    if (!knownAs) {
      throw new ConfigurationError("a handler without a name can't be called: give its class a handlerName");
    }
    const known = this.#handlers.get(knownAs);
    if (known !== undefined && known !== handler) {
      throw new ConfigurationError(`a handler named \`${knownAs}\` is registered already: ${known.name}`);
    }
    this.#handlers.set(knownAs, handler);
  }

  /** Forgets a handler; answers whether there was one. */
  unregister(name: string): boolean {
    return this.#handlers.delete(name);
  }

  /** A new instance of the handler of this name; null where there is none. */
  resolve(name: string): StepHandler | null {
    const Handler = this.#handlers.get(name);
    return Handler === undefined ? null : new Handler();
  }

  /** The class of the handler of this name. */
  getHandlerClass(name: string): HandlerClass | undefined {
    return this.#handlers.get(name);
  }

  /**
   * Registers what finds handlers by other means than their names; templates may name it (`handler.resolver`). It is
   * asked once about each callable and method.
   */
  registerResolver(name: string, resolver: Resolver): void {
    if (name === CLASS_LOOKUP || (this.#resolvers.get(name) ?? resolver) !== resolver) {
      throw new ConfigurationError(`a resolver named \`${name}\` is registered already`);
    }
    this.#resolvers.set(name, resolver);
  }

  /**
   * Every resolver, in the order in which they are asked. The last is `class_lookup`, where handlers were loaded from a
   * path: it finds `folder.module.Export` below that path.
   */
  resolverNames(): string[] {
    return [...this.#resolvers.keys(), ...(this.#byPath.size > 0 ? [CLASS_LOOKUP] : [])];
  }

  /** The class that a resolver finds. One that throws, or answers what is no handler, knows nothing. */
  find(resolver: string, name: string, method: string): Promise<HandlerClass | undefined> {
    const asked = JSON.stringify([resolver, name, method]);
    const found = this.#resolved.get(asked) ?? this.#ask(resolver, name, method);
    this.#resolved.set(asked, found);
    return found;
  }

  async #ask(resolver: string, name: string, method: string): Promise<HandlerClass | undefined> {
    try {
      const isLookup = resolver === CLASS_LOOKUP;
      const found = await (isLookup ? this.#byPath.get(name) : this.#resolvers.get(resolver)?.(name, method));
      if (found === undefined || found === null) {
        return undefined;
      }
      checkHandler(found);
      return handlerMethods(found).includes(method) ? found : undefined;
    } catch (error) {
      const why = ofThrown(error).errorMessage;
      log.error(`the resolver ${resolver} was asked for ${name}; it counts as knowing nothing: ${why}`);
      return undefined;
    }
  }

  /** Whether there is a handler of this name. */
  isRegistered(name: string): boolean {
    return this.#handlers.has(name);
  }

  /** Every name, sorted. */
  listHandlers(): string[] {
    return [...this.#handlers.keys()].sort();
  }

  /** How many there are. */
  handlerCount(): number {
    return this.#handlers.size;
  }

  /** Forgets all. */
  clear(): void {
    this.#handlers.clear();
    this.#byPath.clear();
    this.#resolved.clear();
  }

  /**
   * Registers the handlers that a module, or each module in a folder and in those below it, exports; answers how many
   * there are. TypeScript is read where the runtime reads it, and not where its JavaScript lies beside it.
   */
  async loadFromPath(path: string): Promise<number> {
    const whole = resolve(path);
    const found = await stat(whole).catch(() => undefined);
    if (found === undefined) {
      throw new ConfigurationError(`${whole} does not exist`);
    }
    const handlers = new Set<HandlerClass>();
    const root = found.isDirectory() ? whole : dirname(whole);
    for (const file of found.isDirectory() ? await modules(whole) : [whole]) {
      const module = relative(root, file).slice(0, -extname(file).length).replaceAll(sep, ".");
      for (const [name, handler] of await exported(file)) {
        this.register(handler);
        this.#byPath.set(`${module}.${name}`, handler);
        handlers.add(handler);
      }
    }
    return handlers.size;
  }

  /** {@link loadFromPath} of `TYPESCRIPT_HANDLER_PATH`; 0 where it is not set. */
  async loadFromEnv(): Promise<number> {
    const path = process.env.TYPESCRIPT_HANDLER_PATH;
    return path ? this.loadFromPath(path) : 0;
  }
}

async function modules(folder: string): Promise<string[]> {
  const entries = (await readdir(folder, { withFileTypes: true })).sort((a, b) => (a.name < b.name ? -1 : 1));
  const names = new Set(entries.map((entry) => entry.name));
  const files: string[] = [];
  for (const entry of entries) {
    if (entry.isDirectory() && entry.name !== "node_modules" && !entry.name.startsWith(".")) {
      files.push(...(await modules(join(folder, entry.name))));
    } else if (MODULE.test(entry.name) && !(TYPED.test(entry.name) && names.has(compiled(entry.name)))) {
      files.push(join(folder, entry.name));
    }
  }
  return files;
}

/** What a compiler makes of a file's name. */
function compiled(name: string): string {
  return name.replace(/ts$/, "js");
}

async function exported(file: string): Promise<[string, HandlerClass][]> {
  if (TYPED.test(file) && !readsTypes()) {
    throw new ConfigurationError(
      `${file}: this runtime reads no TypeScript; compile it, or use Node 22.18 or newer, Bun or Deno`,
    );
  }
  try {
    const found: Record<string, unknown> = await import(pathToFileURL(file).href);
    return Object.entries(found).filter((each): each is [string, HandlerClass] => isHandlerClass(each[1]));
  } catch (error) {
    throw new ConfigurationError(`${file} can't be loaded`, { cause: error });
  }
}

function readsTypes(): boolean {
  const features = process.features as { typescript?: unknown };
  return Boolean(features.typescript) || "Bun" in globalThis || "Deno" in globalThis;
}
