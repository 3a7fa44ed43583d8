/** Every name of the public TypeScript package of Tasker 0.1.x is here, or on the page about moving from it. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as tasker from "@tasker-systems/tasker";
import { makeContext } from "@tasker-systems/tasker/testing";
import { expect, test } from "vitest";
import { HERE, type Told } from "./support.ts";

const exported: Record<string, Told> = tasker;
const words = (text: string) => text.trim().split(/\s+/);

const NAMES = words(`
  StepHandler StepHandlerResult StepContext ApiHandler ApiResponse DecisionHandler BatchableStepHandler APIMixin
  DecisionMixin BatchableMixin applyAPI applyDecision applyBatchable detectAggregationScenario defineHandler
  defineDecisionHandler defineBatchAnalyzer defineBatchWorker defineApiHandler Decision HandlerRegistry HandlerSystem
  EventSystem EventEmitter EventPoller StepExecutionSubscriber WorkerServer ShutdownController bootstrapWorker stopWorker
  getWorkerStatus transitionToGracefulShutdown isWorkerRunning healthCheck getVersion getRustVersion logError logWarn
  logInfo logDebug logTrace TaskerError RetryableError TimeoutError NetworkError RateLimitError ServiceUnavailableError
  ResourceContentionError PermanentError ValidationError NotFoundError AuthenticationError AuthorizationError
  ConfigurationError BusinessLogicError ErrorClassifier BasePublisher DefaultPublisher BaseSubscriber PublisherRegistry
  SubscriberRegistry InProcessDomainEventPoller StepEventContext TaskerClient`);

const API = "get post put patch delete request apiSuccess apiFailure connectionError timeoutError";
const DECISION = "decisionSuccess decisionNoBranches routeToSteps skipBranches decisionFailure";
const BATCHABLE = `createCursorConfig createCursorRanges createCursorConfigs createBatchOutcome getBatchContext
  getBatchWorkerInputs handleNoOpWorker batchAnalyzerSuccess batchWorkerSuccess noBatchesResult
  noBatchesAggregationResult checkpointYield detectAggregationScenario aggregateBatchWorkerResults
  aggregateWorkerResults`;
const MEMBERS: Record<string, string> = {
  StepHandler: "handlerName handlerVersion name version capabilities configSchema success failure",
  StepHandlerResult: "success failure",
  StepContext: `fromFfiEvent getDependencyResult getInput getConfig isRetry isLastRetry getDependencyResultKeys
    getAllDependencyResults getInputOr getDependencyField getTaskField checkpointCursor checkpointItemsProcessed
    accumulatedResults hasCheckpoint retryCount maxRetries`,
  ApiHandler: `${API} baseUrl defaultTimeout defaultHeaders`,
  ApiResponse: "ok isClientError isServerError isRetryable retryAfter",
  DecisionHandler: DECISION,
  BatchableStepHandler: BATCHABLE,
  HandlerRegistry: "instance register resolve isRegistered listHandlers handlerCount loadFromPath loadFromEnv clear",
  HandlerSystem: "register resolve loadFromPath loadFromEnv listHandlers",
  EventSystem: "start stop getEmitter",
  EventPoller: "start stop isRunning onStepEvent onMetrics onError getMetrics",
  StepExecutionSubscriber: "start stop isRunning",
  WorkerServer: "start stop shutdown isRunning status healthCheck",
  ShutdownController: "promise isRequested trigger listen",
  DefaultPublisher: `publisherName shouldPublish transformPayload additionalMetadata beforePublish afterPublish
    onPublishError publish`,
  BaseSubscriber: "subscribesTo handle beforeHandle afterHandle onHandleError matches",
  PublisherRegistry: "register get getOrDefault validateRequired freeze",
  SubscriberRegistry: "register startAll stopAll stats",
  TaskerClient: "createTask getTask listTasks cancelTask listTaskSteps getStep getStepAuditHistory healthCheck",
};

const CONTEXT = `event taskUuid stepUuid correlationId handlerName inputData dependencyResults stepConfig stepInputs
  retryCount maxRetries checkpoint`;
const RESULT = "success result errorMessage errorType errorCode retryable metadata";

test("every name is exported", () => {
  expect(NAMES.filter((name) => exported[name] === undefined)).toEqual([]);
});

/** What only a user's class gives, or only an instance has. */
const DECLARED: Record<string, string> = {
  StepHandler: "handlerName handlerVersion",
  ApiHandler: "baseUrl defaultTimeout defaultHeaders",
  ShutdownController: "promise",
  DefaultPublisher: "publisherName",
  BaseSubscriber: "handle",
};

test.each(Object.entries(MEMBERS))("every member is there: %s", (name, members) => {
  const owner = exported[name];
  const declared = words(DECLARED[name] ?? "");
  const missing = words(members).filter((member) => !(member in owner.prototype || member in owner));
  expect(missing.filter((member) => !declared.includes(member))).toEqual([]);
});

test("every attribute is there", () => {
  const has = (value: object, names: string) => words(names).filter((name) => !(name in value));
  expect(has(makeContext(), CONTEXT)).toEqual([]);
  expect(has(tasker.StepHandlerResult.success({}), RESULT)).toEqual([]);
  expect(new tasker.DefaultPublisher().publisherName).toBe("default");
  expect(new tasker.ShutdownController().promise).toBeInstanceOf(Promise);
});

test("the page about moving names what is only there for former programs", () => {
  const page = readFileSync(join(HERE, "../../../docs/migration.md"), "utf8").split("## TypeScript")[1] ?? "";
  const former = words(`HandlerSystem EventSystem EventEmitter EventPoller StepExecutionSubscriber bootstrapWorker
    stopWorker getWorkerStatus transitionToGracefulShutdown healthCheck getVersion getRustVersion logError
    InProcessDomainEventPoller FfiLayer RuntimeFactory fromFfiEvent`);
  expect(former.filter((name) => !page.includes(name))).toEqual([]);
});
