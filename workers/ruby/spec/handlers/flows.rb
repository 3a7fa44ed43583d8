# frozen_string_literal: true

require "tasker_core"

# What the handlers of the tests' workflows share.
module Flows
  # A value that says what it is by raising.
  class Unspeakable < StandardError
    def message
      throw :even_this
    end
  end

  # As Unspeakable, with the end of the thread.
  class Deadly < StandardError
    def message
      Thread.exit
    end
  end

  module_function

  # Appends a line to the log that the test reads, in one write.
  def note(context, text)
    File.open(context.get_input("log"), "a") { |log| log.write("#{text}\n") }
  end

  def circular
    value = { "a" => [] }
    value["a"] << value
    value
  end

  def deep(levels)
    levels.times.reduce(1) { |value, _| [value] }
  end

  def bottomless
    bottomless + 1
  end

  UNSAYABLE = {
    "nan" => -> { { x: [Float::NAN] } },
    "infinity" => -> { { x: [-Float::INFINITY] } },
    "bytes" => -> { { x: ["\xff\xfe".b] } },
    "not utf-8" => -> { { x: ["\xff"] } },
    "half pair" => -> { { x: ["\xed\xa0\x80"] } },
    "circular" => -> { circular },
    "huge" => -> { { x: [(2**53) + 1] } },
    "object" => -> { { x: [Object.new] } },
    "basic object" => -> { { x: [BasicObject.new] } },
    "key" => -> { { x: { 1 => 2 } } },
    "twice" => -> { { x: { "a" => 1, a: 2 } } },
    "nul" => -> { { x: ["a\0b"] } },
    "deep" => -> { { x: deep(100) } },
    "endless" => -> { { x: deep(5_000) } },
    "large" => -> { "x" * (1 << 20) }
  }.freeze

  ODD = {
    "exit" => -> { exit(3) },
    "abort" => -> { abort },
    "interrupt" => -> { raise Interrupt },
    "signal" => -> { raise SignalException, "TERM" },
    "throw" => -> { throw :nobody },
    "stop iteration" => -> { raise StopIteration },
    "kill" => -> { Thread.current.kill },
    "thread exit" => -> { Thread.exit },
    "raise from outside" => lambda {
      victim = Thread.current
      Thread.new { victim.raise(Exception, "from outside") }
      sleep
    },
    "kill from outside" => lambda {
      victim = Thread.current
      Thread.new { victim.kill }
      sleep
    },
    "timeout" => -> { Timeout.timeout(0.01) { sleep } },
    "memory" => -> { raise NoMemoryError },
    "too large" => -> { "x" * (1 << 62) },
    "stack" => -> { bottomless },
    "not implemented" => -> { raise NotImplementedError },
    "unspeakable" => -> { raise Unspeakable },
    "deadly" => -> { raise Deadly },
    "bytes" => -> { raise "half \xed\xa0\x80 a pair, \xff\0".b },
    "utf-16" => -> { raise "as others say it \u{1f600}".encode("UTF-16LE") },
    "anonymous" => -> { raise Class.new(StandardError), "no name" },
    "root" => -> { raise Exception, "at the root" },
    "basic" => -> { BasicObject.new },
    "return of another time" => -> { proc_of_another_time.call }
  }.freeze

  def proc_of_another_time
    proc { return 1 }
  end
end

include TaskerCore::StepHandler::Functional

step_handler "flows.first", inputs: [:number] do |number, context|
  { number: number + context.get_config(:add) }
end

step_handler "flows.second", depends_on: { before: "first" } do |before:|
  { number: before["number"] * 2 }
end

# A class with two methods.
class Third < TaskerCore::StepHandler::Base
  handler_name "flows.Third"
  handler_methods :call, :undo

  def call(context)
    numbers = %w[first second].map { |step| context.get_dependency_field(step, :number) }
    success(result: { numbers: numbers, attempt: context.attempt }, metadata: { by: "a class" })
  end

  def undo(context)
    { undone: context.get_dependency_field("third", "numbers") }
  end
end

decision_handler "flows.choose", inputs: [:amount] do |amount|
  next Decision.skip("nothing") if amount.zero?

  Decision.route(amount > 100 ? "large" : "small", amount: amount)
end

step_handler("flows.echo", &:input_data)

step_handler "flows.names" do |context|
  context.get_dependency_result_keys.sort
end

batch_analyzer "flows.split", worker_template: "work" do |context|
  BatchConfig.new(total_items: context.get_input(:items), batch_size: context.get_input(:batch_size, 30))
end

# Ten items in each run.
class Work < TaskerCore::StepHandler::Base
  include TaskerCore::StepHandler::Mixins::Batchable
  handler_name "flows.Work"

  def call(context)
    no_op = handle_no_op_worker(context)
    return no_op if no_op

    batch = get_batch_context(context)
    cursor = batch.checkpoint_cursor
    Flows.note(context, "#{batch.batch_id} #{context.attempt} #{cursor}")
    context.wait_cancelled(60) if context.get_input(:hang_at) == cursor && !context.retry?
    ending = [cursor + 10, batch.end_cursor].min
    total = (batch.accumulated_results || 0) + (cursor...ending).sum
    done = ending - batch.start_cursor
    if ending < batch.end_cursor
      return checkpoint_yield(cursor: ending, items_processed: done, accumulated_results: total)
    end

    batch_worker_success(items_processed: done, results: [total])
  end
end

# Brings the batches together.
class Merge < TaskerCore::StepHandler::Batchable
  handler_name "flows.Merge"

  def call(context)
    scenario = detect_aggregation_scenario(context, "split", "work_")
    aggregate_batch_worker_results(scenario, zero_metrics: { total: 0 }) do |results|
      { total: results.values.sum { |each| each["results"].first } }
    end
  end
end

step_handler "flows.single" do |context|
  odd = context.get_input(:odd)
  next Flows.instance_exec(&Flows::ODD.fetch(odd)) if odd && !context.retry?

  wanted = context.get_input(:do)
  next Flows.instance_exec(&Flows::UNSAYABLE[wanted]) if Flows::UNSAYABLE.key?(wanted)

  case wanted
  when "later"
    raise TaskerCore::RetryableError.new("not yet", retry_after: 1.5) unless context.retry?
  when "never"
    raise TaskerCore::ValidationError.new("never", error_code: "E7", metadata: { field: "amount" })
  when "slow"
    unless context.retry?
      Flows.note(context, "begun")
      sleep 3
      Flows.note(context, "ended #{context.cancelled?}")
    end
  when "wait for cancel"
    Flows.note(context, "begun")
    seen = context.wait_cancelled(30)
    Flows.note(context, "cancelled #{seen} #{context.heartbeat}")
  when "sleep"
    Flows.note(context, "begun")
    sleep 0.01 until File.exist?(context.get_input(:gate))
  when "hang"
    sleep 0.01 until context.retry? || File.exist?(context.get_input(:gate))
  when "meet"
    # Ends only once as many run at the same time as were asked for.
    File.write(File.join(context.get_input(:folder), context.task_uuid), "")
    sleep 0.01 while Dir.children(context.get_input(:folder)).size < context.get_input(:count)
  when "fork"
    Process.wait(fork { exit(4) })
    next { child: $?.exitstatus }
  when "fork and go on"
    child = fork
    next { odd: true } if child.nil?

    Process.wait(child)
    next { child: $?.exitstatus }
  when "rubbish"
    GC.stress = true
    values = Array.new(20) { |at| { at.to_s => ["x" * at, at, at.to_f] } }
    GC.compact if GC.respond_to?(:compact)
    GC.stress = false
    next { values: values }
  end
  { pid: Process.pid, attempt: context.attempt }
end
