# frozen_string_literal: true

require "fiddle"
require "tasker_core"

# The handlers of conformance/README.md in Ruby.
module Conformance
  extend TaskerCore::StepHandler::Functional

  STRIDE = 10
  ERRORS = {
    "permanent" => TaskerCore::PermanentError,
    "retryable" => TaskerCore::RetryableError,
    "validation" => TaskerCore::ValidationError,
    "not_found" => TaskerCore::NotFoundError,
    "network" => TaskerCore::NetworkError,
    "rate_limit" => TaskerCore::RateLimitError
  }.freeze

  # What can't say why.
  class Unspeakable < StandardError
    def message
      raise "not even this"
    end
  end

  def self.circular
    [].tap { |value| value << value }
  end

  def self.lists(levels)
    levels.times.reduce(1) { |value, _| [value] }
  end

  step_handler "conformance.echo" do |context|
    { input: context.input_data, config: context.step_config, dependencies: context.dependency_results }
  end

  step_handler "conformance.context" do |context|
    {
      namespace: context.namespace_name, step_name: context.step_name, handler_name: context.handler_name,
      attempt: context.attempt, max_retries: context.max_retries, retry_count: context.retry_count,
      is_retry: context.retry?, is_last_retry: context.last_retry?, alive: context.heartbeat
    }
  end

  step_handler "conformance.fail" do |context|
    config = context.step_config.transform_keys(&:to_sym)
    next { attempt: context.attempt } if config[:until] && context.attempt >= config[:until]

    raise ERRORS.fetch(config[:error]).new(config[:message], **config.slice(:error_code, :retry_after))
  end

  # Returns its failure.
  class Refuse < TaskerCore::StepHandler::Base
    handler_name "conformance.refuse"

    def call(_context)
      failure(**config.transform_keys(&:to_sym))
    end
  end

  step_handler "conformance.raise" do |context|
    case context.get_config(:kind)
    when "plain" then raise context.get_config(:message)
    when "empty" then raise StandardError, ""
    when "unspeakable" then raise Unspeakable
    when "exit" then exit(3)
    when "long" then raise "long " * 20_000
    when "control" then raise "a\0b\xed\xa0\x80\xff"
    end
  end

  step_handler "conformance.hang" do |context|
    context.wait_cancelled(60)
    {}
  end

  step_handler "conformance.watch_cancel", inputs: [:file] do |file, context|
    File.write(file, "started")
    context.wait_cancelled(60)
    File.write(file, "seen")
    {}
  end

  decision_handler "conformance.route", inputs: [:route] do |route|
    route.empty? ? TaskerCore::Decision.skip("nothing") : TaskerCore::Decision.route(route)
  end

  batch_analyzer "conformance.split", inputs: %i[items batch_size] do |items, batch_size|
    TaskerCore::BatchConfig.new(total_items: items, batch_size: batch_size)
  end

  # Ten items in each run.
  class Work < TaskerCore::StepHandler::Base
    include TaskerCore::StepHandler::Mixins::Batchable
    handler_name "conformance.work"

    def call(context)
      no_op = handle_no_op_worker(context)
      return no_op if no_op

      batch = get_batch_context(context)
      start = batch.checkpoint_cursor
      ending = [start + STRIDE, batch.end_cursor].min
      total = (batch.accumulated_results || 0) + (start...ending).sum
      done = ending - batch.start_cursor
      if ending < batch.end_cursor
        return checkpoint_yield(cursor: ending, items_processed: done, accumulated_results: total)
      end

      batch_worker_success(items_processed: done, items_succeeded: done, results: [total])
    end
  end

  # Adds up what the batch workers found.
  class Merge < TaskerCore::StepHandler::Batchable
    handler_name "conformance.merge"

    def call(context)
      scenario = detect_aggregation_scenario(context, "split", "work_")
      aggregate_batch_worker_results(scenario, zero_metrics: { total: 0 }) do |results|
        { total: results.values.sum { |each| each["results"].first } }
      end
    end
  end

  # Counts, and goes on where it was.
  class Resume < TaskerCore::StepHandler::Batchable
    handler_name "conformance.resume"

    def call(context)
      start, items = context.checkpoint_cursor || 0, context.get_input(:items)
      counted = context.accumulated_results || { "sum" => 0, "resumed_at" => 0, "attempt" => 0 }
      counted.update("attempt" => context.attempt, "resumed_at" => start) if counted["attempt"] != context.attempt
      raise TaskerCore::RetryableError, "not beyond this" if !context.retry? && start == context.get_input(:fail_at)

      ending = [start + STRIDE, items].min
      counted["sum"] += (start...ending).sum
      return counted if ending == items

      checkpoint_yield(cursor: ending, items_processed: ending, accumulated_results: counted)
    end
  end

  step_handler "conformance.odd" do |context|
    value = {
      "nan" => Float::NAN, "infinity" => Float::INFINITY, "nul" => "x\0", "surrogate" => "\xed\xa0\x80",
      "big" => (2**53) + 1, "not_json" => Object.new, "circular" => circular
    }.fetch(context.get_config(:kind))
    { a: [value] }
  end

  step_handler "conformance.deep" do |context|
    lists(context.get_config(:levels))
  end

  step_handler "conformance.large" do |context|
    { text: "é" * context.get_config(:n) }
  end

  step_handler "conformance.die" do |context|
    Process.kill("KILL", Process.pid) unless context.retry?
    { attempt: context.attempt }
  end

  step_handler "conformance.block" do |context|
    # With Ruby's lock, which others would need.
    usleep = Fiddle::Function.new(Fiddle.dlopen(nil)["usleep"], [Fiddle::TYPE_INT], Fiddle::TYPE_INT, need_gvl: true)
    usleep.call(context.get_config(:ms) * 1000)
    { attempt: context.attempt }
  end

  step_handler "conformance.churn" do |context|
    objects = context.get_config(:objects)
    objects.times do |at|
      circular
      GC.start if (at % 5_000).zero?
    end
    GC.compact if GC.respond_to?(:compact)
    { objects: objects }
  end

  step_handler("conformance.whoami") { { language: "ruby" } }
end
