# frozen_string_literal: true

require_relative "handlers/flows"
require_relative "handlers/shop"

# Whole workflows in memory: the tests' templates with the tests' handlers, and what only a test would do.
RSpec.describe "workflows in memory" do
  include TaskerCore::Testing::RSpecHelpers

  around { |example| @log = logged { example.run } }

  RETRIES = <<~YAML
    name: retries
    namespace_name: test
    version: 1.0.0
    input_schema: {type: object, required: [times]}
    steps:
      - name: fetch
        handler: fetch
        retry: {max_attempts: 5, backoff: exponential, backoff_base_ms: 3600000, max_backoff_ms: 86400000}
      - {name: store, handler: store, dependencies: [fetch]}
    environments:
      test: {steps: [{name: fetch, retry: {max_attempts: 2}}]}
  YAML

  let(:fetch) do
    step_handler "fetch", inputs: %i[times status] do |times, status, context|
      raise TaskerCore::PermanentError.new("gone", error_code: status) if status
      raise TaskerCore::RetryableError, "busy" if context.attempt <= times

      { fetched: context.attempt }
    end
  end
  let(:store) do
    step_handler("store", depends_on: { fetched: "fetch" }) { |fetched| { stored: fetched["fetched"] } }
  end
  # Those of the tests' worker.
  let(:flows) do
    folder = "#{HERE}/handlers/"
    TaskerCore::StepHandler::Base.known.select { |each| each.source_file.to_s.start_with?(folder) && each.runnable? }
  end

  def template(name)
    "#{HERE}/templates/#{name}.yaml"
  end

  it "let hours of backoff pass in no time" do
    workflow = run_workflow(RETRIES, { times: 3 }, handlers: [fetch, store])
    expect([workflow.status, workflow.results["store"]]).to eq(["complete", { "stored" => 4 }])
    hours = workflow.attempts_of("fetch").map { |each| (each.at_ms / 3_600_000.0).round }
    expect(hours).to match([0, 1, be_between(3, 4), be_between(6, 9)])
    expect(workflow.elapsed * 1000).to eq(workflow.attempts.last.at_ms)
    expect(workflow.attempts_of("fetch").first(3).map { |each| each.error.message }).to eq(["busy"] * 3)
  end

  it "are blocked by a step that fails" do
    workflow = run_workflow(RETRIES, { times: 0, status: "E410" }, handlers: { "fetch" => fetch, "store" => store })
    expect([workflow.status, workflow.elapsed]).to eq(["blocked_by_failures", 0])
    expect(workflow.steps.transform_values(&:state)).to eq("fetch" => "error", "store" => "pending")
    expect([workflow.attempts.size, workflow.attempts.first.error.error_code]).to eq([1, "E410"])
    fewer = run_workflow(RETRIES, { times: 3 }, handlers: [fetch, store], environment: "test")
    expect([fewer.status, fewer.steps["fetch"].attempts]).to eq(["blocked_by_failures", 2])
  end

  describe "and on a server" do
    before(:all) { @worker = WorkerProgram.new(Shared.server, "#{Shared.folder}/simulated-worker.log") }
    after(:all) { expect(@worker.terminate).to eq(0), File.read(@worker.log) }

    [["linear", { number: 4 }], ["decision", { amount: 500 }], ["decision", { amount: 0 }], ["batch", { items: 70 }],
     ["batch", { items: 0 }], ["single", { do: "nan" }], ["single", { do: "never" }]].each do |name, given|
      it "end alike: #{name} of #{given}" do
        given = { **given, log: "#{scratch}/log" }
        real = server.run(name, given)
        workflow = run_workflow(template(name), given, handlers: flows)
        expect(workflow.status).to eq(real["status"])
        steps = real.except("status", "task")
        expect(workflow.steps.transform_values { |step| [step.state, step.attempts, step["result"]] })
          .to eq(steps.transform_values { |step| step.values_at("current_state", "attempts", "results") })
        steps.each do |step_name, step|
          mine = workflow.attempts_of(step_name).map { |each| each.values_at("attempt", "outcome", "error") }
          expect(mine).to eq(server.audit(step).map { |each| each.values_at("attempt", "outcome", "error") })
        end
      end
    end
  end

  it "bring batches with checkpoints together" do
    workflow = run_workflow(template("batch"), { items: 70, log: "#{scratch}/log" }, handlers: flows)
    expect(workflow.results["merge"])
      .to eq("total" => 70.times.sum, "worker_count" => 3, "scenario" => "with_batches")
    expect(workflow.steps.keys).to match_array(%w[split merge work_001 work_002 work_003])
  end

  it "publish what a worker would" do
    publishers = TaskerCore::DomainEvents::PublisherRegistry.new
    publishers.register(Shop::Receipt.new)
    log = "#{scratch}/log"
    workflow = run_workflow(template("shop"), { log: log }, handlers: flows, publishers: publishers)
    expect(workflow.events.map(&:name)).to eq(%w[order.paid order.tried order.seen])
    paid = workflow.events.first
    expect([paid.payload, paid.metadata.by, paid.delivery_mode])
      .to eq([{ "amount" => 5, "log" => log }, "receipt", "broadcast"])
    raising = run_workflow(template("shop"), { do: "raise" }, handlers: flows, publishers: publishers)
    expect([raising.status, raising.events.map(&:name)]).to eq(["complete", ["order.tried"]])
  end

  it "tell what a server refuses, and which handlers are missing" do
    refusal = lambda do |*arguments, **more|
      run_workflow(*arguments, **more)
    rescue TaskerCore::WorkerError => e
      e.code
    end
    expect(refusal[RETRIES, {}, handlers: [fetch, store]]).to eq("bad_input")
    expect(refusal["name: x\n", {}, handlers: [fetch]]).to eq("bad_template")
    expect { run_workflow(RETRIES, { times: 0 }, handlers: [fetch]) }
      .to raise_error(TaskerCore::ConfigurationError, /`store`/)
    asked = RETRIES.sub("handler: store", "handler: {callable: store, resolver: sql}")
    expect { run_workflow(asked, { times: 0 }, handlers: [fetch, store]) }
      .to raise_error(TaskerCore::ConfigurationError, /resolver `sql`/)
  end

  it "are given up where they have no end" do
    forever = step_handler("flows.single") do
      TaskerCore::Types::StepHandlerCallResult.checkpoint_yield(cursor: 1, items_processed: 1)
    end
    expect { run_workflow(template("single"), {}, handlers: [forever], most_runs: 20) }
      .to raise_error(TaskerCore::Error, /20 runs/)
  end
end
