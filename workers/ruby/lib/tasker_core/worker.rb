# frozen_string_literal: true

require "json"
require_relative "worker/threads"

module TaskerCore
  # A worker: fetches steps, runs handlers, hands in outcomes. Everything else is done in Rust (docs/boundary.md).
  # Worker::Bootstrap makes the one of the process.
  class Worker
    POLL_MS = 60_000

    # Handlers that hang keep their threads when their time is over; so many of them are made up for.
    SPARE_THREADS = 256

    # Seconds that the thread which polls has to end once the worker has left.
    LAST_WORDS = 2.0

    # One run of a handler.
    Run = Struct.new(:id, :entry, :context)

    class << self
      # The step whose handler is running on this thread; nil elsewhere.
      def current_step
        Thread.current.thread_variable_get(:tasker_step)
      end
    end

    attr_reader :registry, :worker_id, :concurrency

    # Starts. `variables` are those of the configuration, and win over the environment's. With `rehearsal`, it runs so
    # many made-up steps of the first handler, without a database, and ends.
    def initialize(registry: Registry::HandlerRegistry.instance, variables: {}, rehearsal: nil)
      Native.check!
      @registry = registry
      start = { version: Native::BOUNDARY, handlers: registry.methods_by_name, variables: variables }
      start[:rehearsal] = { steps: rehearsal } if rehearsal
      @native = Native.start(JSON.generate(start))
      about = JSON.parse(@native.about)
      @worker_id, @concurrency = about.values_at("worker_id", "concurrency")
      @threads = Threads.new(@concurrency + SPARE_THREADS)
      @runs = {}
      @lock = Mutex.new
      @process = Process.pid
      Thread.handle_interrupt(Object => :never) { @poll = Thread.new { poll } }
      @poll.name = "tasker-poll"
    end

    # Claims nothing more, lets handlers end for `grace` seconds (the configuration's without it), and leaves.
    def stop(grace = nil)
      if self.class.current_step
        raise Errors::WorkerError.new("stop_in_handler", "a handler can't stop its worker: it would wait for itself")
      end

      @native.stop(grace && (grace * 1000).to_i)
      @poll.join(LAST_WORDS)
      runs.each { |run| run.context.cancel! }
      @threads.close
    end

    # Whether it fetches steps.
    def running?
      @poll.alive? && @process == Process.pid
    end

    # Waits until it has stopped, at most this many seconds; answers whether it has.
    def wait(seconds = nil)
      !@poll.join(seconds).nil?
    end

    # Whether handlers run, wanted or not.
    def busy?
      !runs.empty?
    end

    # What it does just now.
    def status
      steps = runs.map do |run|
        { "task" => run.context.task_uuid, "step" => run.context.step_name, "attempt" => run.context.attempt,
          "cancelled" => run.context.cancelled? }
      end
      { "worker_id" => worker_id, "running" => running?, "concurrency" => concurrency, "threads" => @threads.count,
        "handlers" => registry.registered_handlers, "steps" => steps }
    end

    private

    def runs
      @lock.synchronize { @runs.values }
    end

    # What other threads do to this one reaches it while it waits, and never between a step and its handler.
    def poll
      loop do
        said = Thread.handle_interrupt(Object => :on_blocking) { @native.poll(POLL_MS) }
        batch = JSON.parse(said, max_nesting: false)
        batch["notices"].each { |notice| notice(notice["id"]) }
        batch["steps"].each { |step| begin_run(step) }
      end
    rescue Errors::WorkerError => e
      TaskerCore.logger.error("the worker ended: #{e.message}") unless e.code == "stopped"
    rescue Exception => e # the program says the rest
      TaskerCore.logger.fatal("the worker ended: #{Outcome.class_name(e)}: #{Outcome.said(e)}")
    end

    # All kinds say that the outcome counts no more. A thread can't be ended safely: its handler has to look.
    def notice(attempt)
      @lock.synchronize { @runs[attempt] }&.context&.cancel!
    end

    def begin_run(step)
      context = Types::StepContext.new(step) { pulse(step["id"]) }
      run = Run.new(step["id"], step["method"], context)
      @lock.synchronize { @runs[run.id] = run }
      hand_over(run)
    end

    def hand_over(run)
      handler = @registry.handler_class(run.context.handler_name)
      if handler.nil?
        end_run(run, Outcome.failure("the handler `#{run.context.handler_name}` was unregistered"))
      elsif !@threads.run { run_handler(run, handler) }
        end_run(run, Outcome.failure("too many handlers hang on after their time", error_type: "worker_exhausted"))
      end
    rescue Exception => e # no thread can be started, no memory is left
      end_run(run, Outcome.failed(run.context, e))
    end

    # Whatever ends the handler, the attempt has an outcome.
    def run_handler(run, handler)
      Thread.current.thread_variable_set(:tasker_step, run.context)
      begin
        value = Thread.handle_interrupt(Object => :immediate) do
          handler.build(run.context.step_config).public_send(run.entry, run.context)
        end
        result = Outcome.of_return(value)
      rescue Exception => e # SystemExit and its like are failed attempts too
        result = Outcome.failed(run.context, e)
      end
    ensure
      Thread.current.thread_variable_set(:tasker_step, nil)
      end_run(run, result || Outcome.of_killed)
    end

    def end_run(run, result)
      @lock.synchronize { @runs.delete(run.id) }
      @native.complete("{\"outcomes\":[#{Outcome.encoded(run.id, result)}]}")
    rescue Errors::WorkerError => e
      # The handler came back in a process that it forked: the attempt is the other one's.
      exit!(1) if e.code == "forked"
      TaskerCore.logger.error("an outcome of #{run.context.step_name} was refused: #{e.message}") if e.code != "stopped"
    rescue Exception => e # the attempt ends by its time
      TaskerCore.logger.error("an outcome of #{run.context.step_name} could not be handed in: #{Outcome.said(e)}")
    end

    def pulse(attempt)
      answer = JSON.parse(@native.heartbeat(JSON.generate({ ids: [attempt] })))
      answer["attempts"].first["state"] == "running"
    rescue Errors::WorkerError
      false
    end
  end
end

require_relative "worker/bootstrap"
