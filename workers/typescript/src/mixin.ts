/** How abilities get into handlers. */

import type { StepHandler } from "./handler.ts";

// biome-ignore lint/suspicious/noExplicitAny: what TypeScript wants of the classes that a mixin is about
type Made<T> = abstract new (...given: any[]) => T;

/** A class that can be given abilities. */
export type HandlerBase = Made<StepHandler>;

/** A class with an ability more. */
export type With<Base extends HandlerBase, Ability> = Base & Made<Ability>;

/**
 * Gives a class, or one instance, the methods of `Ability`; those that it has already stay. Of a class it makes another
 * one, to be extended.
 */
export function mixed<Ability>(
  target: HandlerBase | StepHandler,
  Ability: new () => Ability,
): HandlerBase | (StepHandler & Ability) {
  if (typeof target !== "function") {
    return given(target, Ability);
  }
  abstract class Mixed extends target {}
  given(Mixed.prototype, Ability);
  return Mixed;
}

function given<T extends object, Ability>(target: T, Ability: new () => Ability): T & Ability {
  const methods = Object.getOwnPropertyDescriptors(Ability.prototype);
  for (const [name, method] of Object.entries(methods)) {
    if (!(name in target)) {
      Object.defineProperty(target, name, method);
    }
  }
  return target as T & Ability;
}
