# frozen_string_literal: true

include TaskerCore::StepHandler::Functional

# The examples give what the Rust handlers of the same templates give.
RSpec.describe "examples" do
  include TaskerCore::Testing::RSpecHelpers

  EXAMPLES = File.expand_path("../examples/handlers", HERE)
  RUST = File.expand_path("../../rust", HERE)
  PRODUCTS_FILE = { products_file: "#{RUST}/data/products.csv" }.freeze
  SOURCES = { sales_file: "#{RUST}/data/sales.csv", customers_file: "#{RUST}/data/customers.json",
              stock_file: "#{RUST}/data/stock.csv", period_days: 181 }.freeze

  TASKS = [
    *%w[linear diamond tree8 dag7].map { |template| ["examples", template, { number: 6 }] },
    ["examples", "diamond", { number: -3 }],
    ["shop", "order_fulfillment", { order_file: "#{RUST}/data/order.json", **PRODUCTS_FILE }],
    ["shop", "order_fulfillment", { order_file: PRODUCTS_FILE[:products_file], **PRODUCTS_FILE }],
    ["finance", "expense_approval", { amount_cents: 612_000, purpose: "Travel to the trade fair" }],
    ["finance", "expense_approval", { amount_cents: 15_000, purpose: "Flowers" }],
    ["finance", "expense_approval", { amount_cents: 15_000, purpose: "Equipment" }],
    ["shop", "catalogue_import", PRODUCTS_FILE],
    ["analytics", "analytics_pipeline", SOURCES],
    ["analytics", "analytics_pipeline", { **SOURCES, stock_file: SOURCES[:sales_file] }],
    ["shop", "checkpoint_resume", { **PRODUCTS_FILE, fail_at: 400 }],
    ["shop", "checkpoint_resume", { products_file: "#{RUST}/data/none.csv" }],
    ["shop", "domain_events", { order_id: "O-1001", amount_cents: 4_990 }],
    ["accounts", "user_registration", { email: " Ada@Example.org", plan: "pro" }],
    ["accounts", "user_registration", { email: "bob@example.org", plan: "free" }],
    ["accounts", "user_registration", { email: "nobody", plan: "free" }],
    *%w[flaky rate_limited invalid broken].map { |scenario| ["examples", "error_scenarios", { scenario: scenario }] }
  ].freeze
  # A split and a decision say in each language's own form what they say beside their outcome.
  OWN_FORM = { "split" => "batch_processing_outcome", "route" => "decision_point_outcome" }.freeze

  before(:all) do
    # A server without handlers: the worker inside it claims from a namespace that nobody uses.
    folder = Dir.mktmpdir("examples-", Shared.folder)
    File.chmod(0o755, folder)
    @alone = Server.new(folder, templates: "#{RUST}/templates", TASKER__WORKER__NAMESPACES: "nobody")
  end
  after(:all) { @alone&.stop }

  # What becomes of all tasks with this worker.
  def ran_by(log, **how)
    worker = WorkerProgram.new(@alone, log, **how)
    tasks = TASKS.map { |namespace, template, context| @alone.create(template, context, namespace: namespace) }
    told = tasks.map { |task| told_of(task) }
    expect(worker.terminate).to eq(0), File.read(log)
    told
  end

  def told_of(task)
    status, steps = @alone.wait(task)["status"], @alone.steps(task)
    attempts = steps.transform_values { |step| @alone.audit(step).map { |attempt| attempt_of(attempt) } }
    results = steps.to_h do |name, step|
      own = step["results"] && OWN_FORM[name]
      [name, own ? step["results"][own].slice("type", "step_names") : step["results"]]
    end
    JSON.parse(JSON.generate([status, attempts, results]).gsub(task, "TASK"))
  end

  def attempt_of(attempt)
    [attempt["outcome"], *(attempt["error"] || {}).values_at("retryable", "error_type", "error_code")]
  end

  it "end as in Rust" do
    ruby = ran_by("#{scratch}/ruby.log", arguments: ["--handlers", EXAMPLES])
    rust = ran_by("#{scratch}/rust.log", command: [Server::BINARY, "worker"])
    TASKS.zip(ruby, rust) { |task| expect(task[1]).to eq(task[2]), task.map(&:inspect).join("\n") }
    expect(ruby.map(&:first).tally).to eq("complete" => TASKS.size - 6, "blocked_by_failures" => 6)
  end

  it "and the handler of `tasker bench` serve their templates" do
    steps = "steps: [{name: s0, handler: bench.nothing}, {name: s1, handler: bench.nothing, dependencies: [s0]}]"
    yaml = "name: linear2\nnamespace_name: bench\nversion: 1.0.0\n#{steps}\n"
    @alone.call("POST", "/v1/templates", { yaml: yaml })
    arguments = ["--handlers", File.expand_path("../bench/handlers.rb", HERE), "--namespace", "bench"]
    worker = WorkerProgram.new(@alone, "#{scratch}/bench.log", arguments: arguments)
    steps = @alone.run("linear2", {}, namespace: "bench")
    expect(steps.values_at("s0", "s1").map { |step| step["results"] }).to eq([{ "ok" => true }] * 2)
    expect(worker.terminate).to eq(0)
  end

  # Those of the examples, and others.
  def examples(**others)
    registry = TaskerCore::Registry::HandlerRegistry.new
    registry.discover_folder(EXAMPLES)
    { **registry.handlers_by_name, **others.to_h { |name, value| [name.to_s, step_handler(name.to_s) { value }] } }
  end

  it "publish what the Rust publisher does" do
    workflow = run_workflow("#{RUST}/templates/domain_events.yaml", { order_id: "O-1001", amount_cents: 4_905 },
                            handlers: examples)
    expect(workflow.events.map { |event| [event.name, event.payload] }).to eq(
      [["order.placed", { "order_id" => "O-1001", "status" => "placed" }],
       ["order.paid", { "order_id" => "O-1001", "amount" => "49.05" }]]
    )
  end

  it "do Ruby's part of a task of four languages" do
    others = %i[CountLetters CountWords Capitalise Summarise].to_h { |name| [:"polyglot.#{name}", {}] }
    workflow = run_workflow("#{RUST}/templates/polyglot.yaml", { text: "not every  owl sleep\n" },
                            handlers: examples(**others))
    expect(workflow.results["longest"]).to eq("language" => "ruby", "longest" => "every")
    expect(examples.keys.grep(/polyglot/)).to eq(["polyglot.FindLongest"]), "the others are of other languages"
  end
end
