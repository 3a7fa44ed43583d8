/** What can go wrong with a call, and what a handler says of it (template `error_scenarios`). */

import { defineHandler, NetworkError, RateLimitError, ValidationError } from "@tasker-systems/tasker";

export const call = defineHandler("scenarios.Call", { inputs: { scenario: "scenario" } }, ({ scenario, context }) => {
  const { attempt } = context;
  if (scenario === "flaky" && attempt <= 2) {
    throw new NetworkError("the other side is away");
  }
  if (scenario === "rate_limited" && attempt === 1) {
    throw new RateLimitError("too many calls", 0.2);
  }
  if (scenario === "invalid") {
    throw new ValidationError("the amount is negative", { errorCode: "NEGATIVE" });
  }
  if (scenario === "broken") {
    // As any error that a handler lets pass: nobody said that trying again is useless, so it is tried.
    throw new Error("nobody thought of this");
  }
  return { scenario, attempts: attempt };
});

export const tell = defineHandler("scenarios.Tell", { depends: { called: "call" } }, ({ called }) => ({
  told: `${called.scenario}: came through at attempt ${called.attempts}`,
}));
