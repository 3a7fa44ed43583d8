/** Handlers that are found by where they are, or by a resolver. */

import { setImmediate } from "node:timers/promises";
import { defineHandler, HandlerRegistry, StepHandler } from "@tasker-systems/tasker";

/** @typedef {import("@tasker-systems/tasker").StepContext} StepContext */

export class Outer extends StepHandler {
  static handlerName = "another.name";
  static handlerMethods = ["call", "undo"];

  /** @param {StepContext} context */
  async call(context) {
    return { found: "Outer", as: context.handlerName };
  }

  async undo() {
    return { found: "Outer.undo" };
  }
}

export const called = defineHandler("yet.another.name", {}, () => ({ found: "called" }));

const Shout = defineHandler("nobody.calls.it.so", {}, ({ context }) => ({
  said: context.handlerName.split(":")[1]?.toUpperCase(),
}));

HandlerRegistry.instance().registerResolver("shout", async (callable) => {
  await setImmediate();
  return callable.startsWith("shout:") ? Shout : null;
});
