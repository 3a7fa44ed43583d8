/** Domain events: published by publishers in TypeScript, heard by subscribers in TypeScript. */

import { join } from "node:path";
import {
  BasePublisher,
  BaseSubscriber,
  DefaultPublisher,
  type DomainEvent,
  InProcessDomainEventPoller,
  PublisherRegistry,
  StepEventContext,
  SubscriberRegistry,
} from "@tasker-systems/tasker";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { eventually, lines, Server, type Told, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
const EVENTS_LOG = join(inject("folder"), "events");
let worker: WorkerProcess;

beforeAll(async () => {
  const log = join(inject("folder"), "events.log");
  worker = await WorkerProcess.start(server, log, { variables: { EVENTS_LOG } });
});

afterAll(async () => {
  expect(await worker.terminate(), worker.errors()).toBe(0);
});

const noted = () => lines(EVENTS_LOG).map((line): Told => JSON.parse(line));

/** What was heard of a task, in order. `order.tried` is the last of each attempt. */
async function heard(task: string, attempts = 1): Promise<Told[]> {
  const of = () => noted().filter(({ metadata }) => metadata?.taskUuid === task);
  const isTried = ({ heard }: Told) => heard === "order.tried";
  await eventually("the last event is heard", () => of().filter(isTried).length === attempts);
  return of();
}

test("a publisher says what is published, and subscribers hear it once", async () => {
  const steps = await server.run("shop", {});
  const [paid, seen, tried, ...more] = await heard(steps.task);
  expect(more).toEqual([]);
  const receipt = { amount: 5, wanted: null };
  expect(paid).toMatchObject({
    heard: "order.paid",
    payload: receipt,
    metadata: { by: "receipt", event: "order.paid" },
  });
  expect(seen).toMatchObject({ heard: "order.seen", payload: receipt, metadata: { stepName: "pay", namespace: "ts" } });
  expect(tried.payload, "it has no publisher").toEqual({ amount: 5, card: "4711", wanted: null });
  const published = noted().filter((each) => each.published);
  expect(published.map((each) => each.published)).toEqual(["order.paid", "order.seen"]);
});

test("each condition is asked after the attempts that it names", async () => {
  const failed = await server.run("shop", { do: "fail" });
  const events = await heard(failed.task);
  expect(events.map((each) => each.heard)).toEqual(["order.failed", "order.given_up", "order.tried"]);
  expect(events[0].payload).toEqual({ why: "broke", code: "E1", attempt: 1 });
  const later = await heard((await server.run("shop", { do: "later" })).task, 2);
  expect(later.map((each) => `${each.heard} ${each.attempt}`)).toEqual([
    "order.failed 1",
    "order.tried 1",
    "order.paid 2",
    "order.seen 2",
    "order.tried 2",
  ]);
});

test("the last word is the publisher's", async () => {
  const steps = await server.run("shop", { do: "unwanted" });
  expect((await heard(steps.task)).map((each) => each.heard)).toEqual(["order.seen", "order.tried"]);
});

test.each(["raise", "unsayable", "skip"])("a publisher that fails or declines publishes nothing: %s", async (what) => {
  const steps = await server.run("shop", { do: what });
  expect([steps.status, steps.pay.results.amount]).toEqual(["complete", 5]);
  expect(await server.audit(steps.pay)).toHaveLength(1);
  expect((await heard(steps.task)).map((each) => each.heard)).toEqual(["order.tried"]);
  if (what !== "skip") {
    expect(worker.errors()).toContain("the publisher receipt of order.paid failed");
    await eventually("the worker tells it too", () => worker.errors().includes("an event is not published"));
    expect(worker.errors()).toContain("onPublishError of Receipt: ExitError");
  }
});

test("a subscriber that fails is told and hears the next event", async () => {
  await heard((await server.run("shop", {})).task);
  await heard((await server.run("shop", {})).task);
  const told = "Ear failed at order";
  await eventually("it is told", () => worker.errors().includes(told));
  expect(worker.errors()).toContain("the subscriber Ear called process.exit(6)");
});

class Quiet extends BasePublisher {
  readonly publisherName = "quiet";

  override shouldPublish({ result }: StepEventContext) {
    return result.loud;
  }
}

test("publishers are tried alone", async () => {
  const event = new StepEventContext({ stepName: "step", result: { loud: false } });
  expect(await new Quiet().publish(event)).toBe(false);
  event.result.loud = true;
  expect(await new Quiet().publish(event, "order.paid")).toBe(true);
  expect(new DefaultPublisher().transformPayload(event)).toEqual({ loud: true });
  expect(new StepEventContext({ error: { message: "no" } }).payload).toEqual({ message: "no" });
});

test("a registry of publishers takes each name once, and none when it is frozen", () => {
  const registry = new PublisherRegistry();
  registry.register(new Quiet());
  registry.register(new Quiet());
  expect([registry.names(), registry.getOrDefault("nobody").publisherName]).toEqual([["quiet"], "default"]);
  class Other extends BasePublisher {
    readonly publisherName = "quiet";
  }
  expect(() => registry.register(new Other())).toThrow("registered already");
  registry.validateRequired(["quiet"]);
  expect(() => registry.validateRequired(["quiet", "nobody"])).toThrow("`nobody`");
  registry.freeze();
  expect(registry.isFrozen).toBe(true);
  expect(() => registry.register(new DefaultPublisher())).toThrow("before the worker starts");
  registry.clear();
  registry.register(new DefaultPublisher());
});

function event(name: string): Told {
  const ids = ["event_id", "task_uuid", "step_uuid", "step_name", "namespace", "correlation_id"];
  return { name, payload: 1, ...Object.fromEntries(ids.map((id) => [id, "x"])) };
}

test("subscribers hear in order, count their failures and end with what waits", async () => {
  const names: string[] = [];
  class Listening extends BaseSubscriber {
    static override subscribesTo() {
      return ["a*", "ab", "*"];
    }

    async handle({ eventName }: DomainEvent) {
      names.push(eventName);
      if (eventName === "ab") {
        throw undefined;
      }
    }
  }
  const registry = new SubscriberRegistry();
  const ear = registry.register(Listening);
  expect(ear.matches("anything")).toBe(true);
  registry.startAll();
  for (const [name, globs] of [
    ["ab", ["a*", "ab", "*"]],
    ["b", ["*"]],
    ["ab", ["a*", "ab", "*"]],
    ["a", ["a*", "*"]],
  ] as const) {
    for (const glob of globs) {
      registry.tell(glob, event(name));
    }
  }
  await registry.stopAll();
  expect(names, "once each, although up to three globs match").toEqual(["ab", "b", "ab", "a"]);
  expect(registry.stats).toEqual({ subscribers: 1, handled: 2, failed: 2, dropped: 0 });
});

test("what comes while 1,024 events wait is dropped and counted", async () => {
  let free = () => {};
  class Slow extends BaseSubscriber {
    static override subscribesTo() {
      return ["*"];
    }

    handle() {
      return new Promise<void>((resolve) => {
        free = resolve;
      });
    }
  }
  const registry = new SubscriberRegistry();
  const slow = new Slow();
  registry.register(slow);
  registry.startAll();
  for (let count = 0; count < 1 + 1024 + 3; count++) {
    registry.tell("*", event("a"));
  }
  expect(registry.stats.dropped).toBe(3);
  slow.handle = async () => {};
  free();
  await registry.clear();
  expect(registry.stats.subscribers).toBe(0);
});

test("a subscriber that the running worker knows nothing of is refused", async () => {
  class Late extends BaseSubscriber {
    static override subscribesTo() {
      return ["late"];
    }

    handle() {}
  }
  const registry = new SubscriberRegistry();
  registry.startAll();
  expect(() => registry.register(Late)).toThrow("before the worker starts");
  await registry.stopAll();
  registry.register(Late);
  expect(registry.globs()).toEqual(["late"]);
});

test("a poller is a subscriber to everything", async () => {
  const [told, failed]: Told[][] = [[], []];
  const poller = new InProcessDomainEventPoller();
  poller.onEvent(({ eventName, metadata }) => told?.push([eventName, metadata.stepUuid]));
  poller.onEvent(({ payload }) => payload.x.y);
  poller.onError((error) => failed?.push(error));
  poller.start();
  expect(() => poller.start()).toThrow("running already");
  const registry = SubscriberRegistry.instance();
  registry.startAll();
  registry.tell("*", event("order.paid"));
  await poller.stop();
  expect(told).toEqual([["order.paid", "x"]]);
  expect(failed?.[0]).toBeInstanceOf(TypeError);
  expect([poller.isRunning(), poller.stats]).toEqual([false, { eventsProcessed: 1 }]);
  await registry.stopAll();
});

test.each([
  ["order.*", "order.a.b", true],
  ["order.?", "order.", false],
  ["[ab]", "a", false],
  ["a+", "aa", false],
  ["?", "\u{1f600}", true],
  ["*", "", true],
])("globs match whole names as the worker's do: %s %s", (glob, name, holds) => {
  class Globbed extends BaseSubscriber {
    override globs() {
      return [glob];
    }

    handle() {}
  }
  expect(new Globbed().matches(name)).toBe(holds);
});
