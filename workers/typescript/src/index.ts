/**
 * Tasker workers in TypeScript.
 *
 * Handlers are functions ({@link defineHandler}) or classes ({@link StepHandler}). Run them with `tasker-worker
 * --handlers DIR`, try one alone with `@tasker-systems/tasker/testing`.
 */

export {
  APIMixin,
  ApiHandler,
  ApiResponse,
  type ApiSettings,
  applyAPI,
  type RequestOptions,
} from "./api.ts";
export {
  applyBatchable,
  type BatchAggregationScenario,
  type BatchAnalyzerOutcome,
  BatchableMixin,
  BatchableStepHandler,
  BatchWorkerContext,
  type BatchWorkerOutcome,
  type CursorConfig,
  detectAggregationScenario,
} from "./batchable.ts";
export {
  type ClientOptions,
  type NewTask,
  type Page,
  type StepRecord,
  TaskerClient,
  type TaskFilters,
  type TaskRecord,
} from "./client.ts";
export * from "./compat.ts";
export { StepContext, type StepContextInit, type StepInputs } from "./context.ts";
export { applyDecision, DecisionHandler, DecisionMixin } from "./decision.ts";
export * from "./errors.ts";
export {
  type ApiHandlerOptions,
  type BatchConfig,
  Decision,
  type DefinedHandler,
  defineApiHandler,
  defineBatchAnalyzer,
  defineBatchWorker,
  defineDecisionHandler,
  defineHandler,
  type HandlerArgs,
  type HandlerOptions,
  type Parser,
} from "./functional.ts";
export { type HandlerClass, StepHandler } from "./handler.ts";
export type { Fields, Json } from "./json.ts";
export { type Level, type LogFields, type Logger, setLogger, setLogLevel } from "./log.ts";
export { BasePublisher, DefaultPublisher, PublisherRegistry, StepEventContext } from "./publishers.ts";
export { HandlerRegistry, type Resolver } from "./registry.ts";
export { type Checkpoint, StepHandlerResult } from "./result.ts";
export { currentStep, ExitError } from "./running.ts";
export { ShutdownController } from "./shutdown.ts";
export {
  BaseSubscriber,
  type DomainEvent,
  InProcessDomainEventPoller,
  type PollerOptions,
  SubscriberRegistry,
} from "./subscribers.ts";
export { type WorkerConfig, WorkerServer } from "./worker.ts";
