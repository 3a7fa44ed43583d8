/** Decisions: a result that names the steps to create. */

import { StepHandler } from "./handler.ts";
import type { Fields } from "./json.ts";
import { type HandlerBase, mixed, type With } from "./mixin.ts";
import { StepHandlerResult } from "./result.ts";

/** For handlers of steps of type `decision`. */
export class DecisionMixin {
  /** Creates these steps, with what follows from them. */
  decisionSuccess(steps: string | readonly string[], routingContext?: Fields, metadata?: Fields): StepHandlerResult {
    const names = typeof steps === "string" ? [steps] : [...steps];
    if (names.length === 0) {
      return this.decisionNoBranches("no steps were named", metadata, routingContext);
    }
    const outcome = { decision_point_outcome: { type: "create_steps", step_names: names } };
    return StepHandlerResult.success(routed(outcome, routingContext), decided(this, metadata));
  }

  /** The same as {@link decisionSuccess}. */
  routeToSteps(steps: string | readonly string[], routingContext?: Fields, metadata?: Fields): StepHandlerResult {
    return this.decisionSuccess(steps, routingContext, metadata);
  }

  /** Creates no step. */
  decisionNoBranches(reason = "", metadata?: Fields, routingContext?: Fields): StepHandlerResult {
    const outcome = { decision_point_outcome: { type: "no_branches" }, reason };
    return StepHandlerResult.success(routed(outcome, routingContext), decided(this, metadata));
  }

  /** The same as {@link decisionNoBranches}. */
  skipBranches(reason = "", routingContext?: Fields, metadata?: Fields): StepHandlerResult {
    return this.decisionNoBranches(reason, metadata, routingContext);
  }

  /** No decision could be made. */
  decisionFailure(
    message: string,
    errorType = "decision_error",
    retryable = false,
    metadata?: Fields,
  ): StepHandlerResult {
    return StepHandlerResult.failure(message, errorType, retryable, decided(this, metadata));
  }
}

function routed(result: Fields, routingContext: Fields = {}): Fields {
  return Object.keys(routingContext).length > 0 ? { ...result, routing_context: routingContext } : result;
}

function decided(handler: object, metadata: Fields = {}): Fields {
  const { name, version } = handler as Partial<StepHandler>;
  return {
    ...metadata,
    decision_handler: name ?? handler.constructor.name,
    decision_version: version ?? "1.0.0",
  };
}

/** Gives a class, or one instance, the methods of {@link DecisionMixin}. */
export function applyDecision<Base extends HandlerBase>(target: Base): With<Base, DecisionMixin>;
export function applyDecision<Handler extends StepHandler>(target: Handler): Handler & DecisionMixin;
export function applyDecision(target: HandlerBase | StepHandler): unknown {
  return mixed(target, DecisionMixin);
}

/** A handler of decisions. */
export abstract class DecisionHandler extends applyDecision(StepHandler) {
  override get capabilities(): string[] {
    return ["process", "decision", "routing"];
  }
}
