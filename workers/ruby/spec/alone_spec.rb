# frozen_string_literal: true

require "socket"

include TaskerCore::StepHandler::Functional

# Handlers alone, without a server.
RSpec.describe "handlers alone" do
  include TaskerCore::Testing::RSpecHelpers

  around { |example| @log = logged { example.run } }

  Cart = Struct.new(:total, :currency)
  Remark = Struct.new(:text, keyword_init: true)
  # Takes what it is given, and nothing else.
  class Order
    attr_reader :id

    def initialize(id:)
      @id = id
    end
  end

  def result_of(value)
    run_step(step_handler("x") { value })
  end

  it "gives a block what its parameters name" do
    charge = step_handler "charge", depends_on: { cart: ["validate", Cart], note: "remark" }, inputs: %i[tip missing],
                                    version: "2.0.0" do |cart, note, missing, context:, tip: 1|
      { charged: cart.total + tip, note: note, missing: missing, attempt: context.attempt }
    end
    dependencies = { validate: { total: 5, more: 1 } }
    expect(run_step(charge, { tip: 2 }, dependencies: dependencies, attempt: 2))
      .to succeed_with("charged" => 7, "note" => nil, "missing" => nil, "attempt" => 2)
    expect(run_step(charge, dependencies: dependencies).result["charged"]).to eq(6), "the block's default"
    expect(run_step(charge, dependencies: { validate: [1] })).to fail_with("validation_error", retryable: false)
    expect([charge.handler_name, charge.handler_version]).to eq(%w[charge 2.0.0])
  end

  it "makes models of inputs and results" do
    by_keywords = step_handler("x", inputs: Remark, depends_on: { order: ["o", Order] }) do |inputs:, order:|
      [inputs.text, order&.id]
    end
    expect(run_step(by_keywords, { text: "a", more: 1 }, dependencies: { o: { id: 7 } })).to succeed_with(["a", 7])
    expect(run_step(by_keywords, { text: "a" })).to succeed_with(["a", nil])
    failed = run_step(by_keywords, {}, dependencies: { o: { id: 7, other: 1 } })
    expect(failed).to fail_with("validation_error", message: /the result of `o` is no Order: unknown keyword/)
  end

  it "gives all that is declared to a block that takes any keyword" do
    all = step_handler("x", inputs: %i[a b]) { |a:, **rest| [a, rest[:b], rest[:context].step_name] }
    expect(run_step(all, { a: 1, b: 2 }, step_name: "s")).to succeed_with([1, 2, "s"])
    expect(run_step(step_handler("x", &:input_data), { a: 1 })).to succeed_with("a" => 1)
  end

  it "fails a block for good that does not fit to its declaration" do
    misfit = step_handler("x", inputs: [:a]) { |b = 1| b }
    expect(run_step(misfit)).to fail_with("configuration_error", retryable: false, message: /takes `b`/)
    unused = step_handler("x", inputs: [:a]) { 1 }
    expect(run_step(unused)).to fail_with("configuration_error", retryable: false, message: /no parameter `a`/)
    expect { step_handler("x") }.to raise_error(ArgumentError)
  end

  it "lets errors say what becomes of the attempt" do
    failing = lambda do |error|
      failed = run_step(step_handler("x") { raise error })
      [failed.error_type, failed.retryable, failed.retry_after, failed.message]
    end
    errors = TaskerCore::Errors
    expect(failing[errors::RetryableError.new("later", retry_after: 7)]).to eq(["retryable_error", true, 7, "later"])
    expect(failing[errors::RateLimitError.new("slow", retry_after: 0.5)]).to eq(["rate_limit", true, 0.5, "slow"])
    expect(failing[errors::PermanentError.new("no", error_type: "card")]).to eq(["card", false, nil, "no"])
    expect(failing[ArgumentError.new("odd")]).to eq(["handler_error", true, nil, "ArgumentError: odd"])
    expect(failing[Interrupt.new("")]).to eq(["handler_error", true, nil, "Interrupt"])
    expect(failing[Class.new(errors::NotFoundError).new("gone")]).to eq(["not_found", false, nil, "gone"])
    unset = run_step(Class.new(TaskerCore::StepHandler::Base) { define_method(:call) { |_| failure(message: "m") } })
    expect(unset).to fail_with("UnexpectedError", retryable: false)
  end

  it "keeps names that are alike and lines of code out of messages" do
    expect(run_step(step_handler("x") { { abc: 1 }.fetch(:abd) }).message).to eq("KeyError: key not found: :abd")
  end

  it "logs the stack of an exception that nobody meant, and of no other" do
    unmeant = logged { run_step(step_handler("x") { raise KeyError, "lost" }) }
    expect(unmeant).to match(/failed at attempt 1: KeyError: lost\n.*alone_spec\.rb/)
    meant = logged { run_step(step_handler("x") { raise TaskerCore::Errors::RetryableError, "later" }) }
    expect(meant).to include("failed at attempt 1: later")
    expect(meant).not_to include("alone_spec")
  end

  it "takes plain values and records as results" do
    expect(result_of(nil)).to succeed_with({})
    expect(result_of([1, [2, :x], { a: nil }])).to succeed_with([1, [2, "x"], { "a" => nil }])
    expect(result_of(Cart.new(1.5, "EUR"))).to succeed_with("total" => 1.5, "currency" => "EUR")
    shared = [1]
    expect(result_of({ a: shared, b: shared })).to succeed_with("a" => [1], "b" => [1]), "twice is not circular"
    expect(result_of("é".encode("ISO-8859-1"))).to succeed_with("é")
    expect(result_of("plain".b)).to succeed_with("plain")
    expect(result_of(Class.new(String) { def to_json(*) = "[]" }.new("text"))).to succeed_with("text")
  end

  it "writes numbers so that they come back as they were" do
    numbers = [0, -1, 2**53, -(2**53), 0.1, 1e22, 1e-7, 5e-324, 1.7976931348623157e308, -0.0]
    expect(result_of(numbers)).to succeed_with(numbers)
    expect(TaskerCore::Portable.encode("x", [2**53, 1.0])).to eq("[9007199254740992,1.0]")
  end

  {
    { "a/b" => [1, { "c" => Float::NAN }] } => "/a~1b/1/c", ["\xff".b] => "/0", { a: { 1 => 2 } } => "/a",
    { a: 2**60 } => "/a", { a: [1.0 / 0] } => "/a/0", { a: { "\xff" => 1 } } => "/a", [1..2] => "/0", [1r] => "/0"
  }.each do |value, place|
    it "refuses what JSON can't carry with its place: #{value.inspect.scrub}" do
      failed = result_of(value)
      expect(failed).to fail_with("result_not_serializable", retryable: false)
      expect(failed.message).to include("the result at #{place} ")
      in_metadata = result_of(TaskerCore::Types::StepHandlerCallResult.success(result: 1, metadata: { "m" => value }))
      expect(in_metadata).to fail_with("result_not_serializable", message: %r{the metadata at /m})
    end
  end

  it "names steps in decisions, or none" do
    routed = run_step(decision_handler("d") { Decision.route(%w[a b], tier: "gold") }).result
    expect(routed["decision_point_outcome"]).to eq("type" => "create_steps", "step_names" => %w[a b])
    expect(routed["routing_context"]).to eq("tier" => "gold")
    expect(run_step(decision_handler("d") { Decision.skip("nothing") }))
      .to succeed_with("reason" => "nothing", "decision_point_outcome" => { "type" => "no_branches" })
    expect(run_step(decision_handler("d") { ["a"] })).to fail_with("configuration_error")

    by_class = Class.new(TaskerCore::StepHandler::Decision) do
      def call(context)
        context.get_input(:go) ? decision_success(steps: "a") : decision_failure(message: "unclear")
      end
    end
    expect(run_step(by_class, { go: true }).result["decision_point_outcome"]["step_names"]).to eq(["a"])
    expect(run_step(by_class)).to fail_with("decision_error", retryable: false)
  end

  it "covers everything once with a split" do
    analyzer = batch_analyzer("s", worker_template: "w") { BatchConfig.new(total_items: 250, batch_size: 100) }
    outcome = run_step(analyzer).result["batch_processing_outcome"]
    expect(outcome).to include("type" => "create_batches", "worker_template_name" => "w", "total_items" => 250)
    edges = outcome["cursor_configs"].map { |each| each.values_at("batch_id", "start_cursor", "end_cursor") }
    expect(edges).to eq([["001", 0, 100], ["002", 100, 200], ["003", 200, 250]])
    none = run_step(batch_analyzer("s") { BatchConfig.new(total_items: 0, batch_size: 100) })
    expect(none.result["batch_processing_outcome"]).to eq("type" => "no_batches")
    by_date = run_step(batch_analyzer("s") { [{ start_cursor: "2024-01", end_cursor: "2024-02" }, { batch_id: "x" }] })
    expect(by_date.result["batch_processing_outcome"]["cursor_configs"])
      .to eq([{ "batch_id" => "001", "start_cursor" => "2024-01", "end_cursor" => "2024-02" }, { "batch_id" => "x" }])

    handler = TaskerCore::StepHandler::Batchable.new
    [[10_000, 100, 10], [7, 3, nil], [1, 1, 1], [101, 10, 4]].each do |total, size, most|
      ranges = handler.create_cursor_ranges(total, size, max_batches: most)
      expect(ranges.flat_map { |each| (each["start_cursor"]...each["end_cursor"]).to_a }).to eq((0...total).to_a)
      expect(ranges.size).to be <= most if most
    end
    expect(handler.create_cursor_configs(10, 3) { |batch, at| batch["at"] = at }.map { |each| each["at"] }).to eq([0, 1, 2])
    expect(handler.create_cursor_configs(0, 3)).to eq([])
  end

  it "shows a batch worker its batch and its checkpoint" do
    work = batch_worker("w") do |batch_context|
      at, gathered = batch_context.checkpoint_cursor, batch_context.accumulated_results
      next { gathered: gathered } unless at < batch_context.end_cursor

      TaskerCore::Types::StepHandlerCallResult.checkpoint_yield(
        cursor: at + 5, items_processed: 5, accumulated_results: [*gathered, at]
      )
    end
    batch = { start_cursor: 10, end_cursor: 20 }
    first = run_step(work, batch: batch)
    expect([first.cursor, first.items_processed, first.accumulated_results]).to eq([15, 5, [10]])
    last = run_step(work, batch: batch, checkpoint: { cursor: 20, accumulated_results: [10, 15] })
    expect(last).to succeed_with("gathered" => [10, 15])
    expect(run_step(work, batch: {})).to succeed_with("no_op" => true, "items_processed" => 0)
  end

  it "brings the results of batches together" do
    results = {
      "split" => { "batch_processing_outcome" => { "type" => "create_batches" } },
      "work_001" => { "items_processed" => 3, "items_succeeded" => 2, "items_failed" => 1, "errors" => ["x"] },
      "work_002" => { "items_processed" => 4, "items_succeeded" => 4 }
    }
    handler = TaskerCore::StepHandler::Batchable.new
    context = TaskerCore::Testing.make_context(dependencies: results)
    scenario = handler.detect_aggregation_scenario(context, "split", "work_")
    expect(handler.aggregate_batch_worker_results(scenario).result)
      .to include("total_processed" => 7, "total_failed" => 1, "errors" => ["x"], "worker_count" => 2)
    [{}, { "split" => {} }].each do |broken|
      expect { handler.detect_aggregation_scenario(broken, "split", "work_") }.to raise_error(ArgumentError)
    end
  end

  it "shows what a step has, by text and by symbol" do
    context = TaskerCore::Testing.make_context(
      { a: 1, none: nil }, dependencies: { "one" => { list: [{ x: 5 }] }, "one_more" => 2 }, config: { k: "v" },
                           attempt: 3, max_attempts: 3, timeout: 5, cancelled: true
    )
    expect([context.get_input("a"), context.get_input(:a), context.get_input(:b, 7), context.get_input_or(:none, 8)])
      .to eq([1, 1, 7, 8])
    expect([context.get_dependency_field(:one, :list, 0, "x"), context.get_dependency_field("one", "list", "x")]).to eq([5, nil])
    expect(context.get_all_dependency_results("one")).to eq([{ "list" => [{ "x" => 5 }] }, 2])
    expect([context.get_config(:k), context.retry_count, context.retryable?, context.is_last_retry?]).to eq(["v", 2, false, true])
    expect([context.cancelled?, context.wait_cancelled, context.heartbeat]).to eq([true, true, false])
    expect(context.time_left).to be_between(0, 5)
    expect(TaskerCore::Testing.make_context.wait_cancelled(0.01)).to be(false)
  end

  it "gives a handler its settings where it takes them" do
    with_config = Class.new(TaskerCore::StepHandler::Base) { define_method(:call) { |_| config["k"] } }
    without = Class.new(TaskerCore::StepHandler::Base) do
      def initialize
        super
        @own = 1
      end

      def call(_context)
        [@own, config]
      end
    end
    expect(run_step(with_config, config: { k: "v" })).to succeed_with("v")
    expect(run_step(without, config: { k: "v" })).to succeed_with([1, {}])
  end

  # Answers requests with what their bodies ask for.
  class Answers
    attr_reader :url, :seen

    def initialize
      @server = TCPServer.new("127.0.0.1", 0)
      @url = "http://127.0.0.1:#{@server.addr[1]}"
      @seen = []
      @thread = Thread.new { loop { serve(@server.accept) } }
    end

    def stop
      @thread.kill.join
      @server.close unless @server.closed?
    end

    private

    def serve(client)
      path = client.gets[/ (\S+) /, 1]
      headers = {}
      while (line = client.gets.chomp) != ""
        headers.store(*line.downcase.split(": ", 2))
      end
      body = client.read(headers["content-length"].to_i)
      @seen << body
      status = body[/"status":(\d+)/, 1] || 200
      answer = path.include?("page") ? page(path) : JSON.generate({ key: headers["x-key"], path: path })
      client.write("HTTP/1.1 #{status} x\r\nretry-after: 7\r\ncontent-length: #{answer.size}\r\nconnection: close\r\n\r\n#{answer}")
      client.close
    end

    def page(path)
      path.include?("cursor=2") ? '{"data":[3]}' : '{"data":[1,2],"meta":{"cursor":"2"}}'
    end
  end

  describe "requests" do
    before do
      require "faraday"
    rescue LoadError
      skip "there is no Faraday"
    end

    let(:answers) { Answers.new }
    after { answers.stop }

    def client
      url = answers.url
      Class.new(TaskerCore::StepHandler::Api) do
        base_url url
        default_headers "x-key" => "secret"

        def call(context)
          answer = post("/pay", data: { status: context.get_input(:status) })
          api_success(data: answer.body, status: answer.status)
        end
      end
    end

    it "classifies answers by their status" do
      told = [200, 400, 401, 404, 408, 418, 422, 429, 500, 501, 503].to_h do |status|
        [status, run_step(client, { status: status })]
      end
      expect(told[200].result).to include("data" => { "key" => "secret", "path" => "/pay" }, "status" => 200)
      expect(told.select { |_, result| result.failure? && result.retryable }.keys).to eq([408, 429, 500, 503])
      expect(told[429]).to fail_with("rate_limit")
      expect([told[429].retry_after, told[429].error_code]).to eq([7.0, "HTTP_429"])
      expect([told[404].error_type, told[422].error_type, told[418].error_type]).to eq(%w[not_found validation_error permanent_error])
    end

    it "does the same for blocks" do
      pay = api_handler("pay", base_url: answers.url, headers: { "x-key" => "other" }, inputs: [:status]) do |api:, status:|
        api.request(:post, "/pay", data: { status: status })
      end
      expect(run_step(pay, { status: 200 })).to succeed_with("key" => "other", "path" => "/pay")
      limited = run_step(pay, { status: 429 })
      expect([limited.retry_after, limited.retryable]).to eq([7.0, true])
    end

    it "takes the address from the step's settings, reads pages and sends files" do
      api = TaskerCore::StepHandler::Api.new(config: { "url" => answers.url })
      expect(api.api_paginated_request("/page")).to eq([1, 2, 3])
      file = File.join(scratch, "note.txt").tap { |path| File.write(path, "inside") }
      api.api_upload_file("/up", file, additional_fields: { "k" => "v" })
      expect(answers.seen.last).to match(/name="k"\r\n\r\nv\r\n.*filename="note.txt".*\r\n\r\ninside\r\n--/m)
      failed = api.api_failure(message: "busy", status: 503, headers: { "Retry-After" => "2" })
      expect([failed.retryable, failed.retry_after, failed.error_code]).to eq([true, 2.0, "HTTP_503"])
    end

    it "tries again where nobody answers" do
      gone = client
      answers.stop
      expect(run_step(gone, { status: 200 })).to fail_with("network_error", retryable: true)
    end
  end

  it "says what is missing where Faraday can't be loaded" do
    program = <<~RUBY
      require "tasker_core/testing"
      module Kernel
        alias required require
        def require(name) = name == "faraday" ? raise(LoadError) : required(name)
      end
      handler = Class.new(TaskerCore::StepHandler::Api) { def call(_) = get("/") }
      print TaskerCore::Testing.run(handler).message
    RUBY
    said = IO.popen([RbConfig.ruby, "-Ilib", "-e", program, { err: File::NULL }], &:read)
    expect(said).to include("need Faraday").and include("ruby-faraday")
  end
end
