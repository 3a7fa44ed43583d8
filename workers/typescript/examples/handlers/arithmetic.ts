/**
 * Arithmetic on one number (templates `linear`, `diamond`, `tree8`, `dag7`): these workflows show the shapes of graphs, not
 * what handlers can do.
 *
 * Every operation names its operands in the template (`initialization.of`), because a step sees the results of all its
 * ancestors, not of its parents alone.
 */

import { defineHandler, type StepContext, ValidationError } from "@tasker-systems/tasker";

export const read = defineHandler("arithmetic.Read", { inputs: { number: "number" } }, ({ number }) => ({
  value: number,
}));

export const add = defineHandler("arithmetic.Add", {}, ({ context }) =>
  exact("sum", operand(context) + context.getConfig<number>("amount")),
);

export const multiply = defineHandler("arithmetic.Multiply", {}, ({ context }) =>
  exact("product", operand(context) * context.getConfig<number>("factor")),
);

export const square = defineHandler("arithmetic.Square", {}, ({ context }) => exact("product", operand(context) ** 2));

export const sum = defineHandler("arithmetic.Sum", {}, ({ context }) =>
  exact(
    "sum",
    operands(context).reduce((sum, number) => sum + number),
  ),
);

export const product = defineHandler("arithmetic.Product", {}, ({ context }) =>
  exact(
    "product",
    operands(context).reduce((product, number) => product * number),
  ),
);

function operand(context: StepContext): number {
  return context.getDependencyField(context.getConfig("of"), "value");
}

function operands(context: StepContext): number[] {
  return context.getConfig<string[]>("of").map((step) => context.getDependencyField(step, "value"));
}

/** A number that JavaScript had to round is not the result. */
function exact(operation: string, value: number) {
  if (!Number.isSafeInteger(value)) {
    throw new ValidationError(`the result of \`${operation}\` is no exact integer any more`, { errorCode: "OVERFLOW" });
  }
  return { value };
}
