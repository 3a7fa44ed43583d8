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

    attr_reader :registry, :worker_id, :concurrency, :orchestration_url

    # Starts. `variables` are those of the configuration, and win over the environment's. With `rehearsal`, it runs so
    # many made-up steps of the first handler, without a database, and ends.
    def initialize(registry: Registry::HandlerRegistry.instance, variables: {}, rehearsal: nil)
      Native.check!
      @registry = registry
      @publishers = DomainEvents::PublisherRegistry.instance
      @subscribers = DomainEvents::SubscriberRegistry.instance
      @native = Native.start(JSON.generate(start_message(variables, rehearsal)))
      about = JSON.parse(@native.about)
      @worker_id, @concurrency, @orchestration_url = about.values_at("worker_id", "concurrency", "orchestration_url")
      @threads = Threads.new(@concurrency + SPARE_THREADS, keep: @concurrency) { hand_in }
      @runs = {}
      @outcomes = []
      @lock = Mutex.new
      @process = Process.pid
      @subscribers.start_all
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
      @subscribers.stop_all
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

    def start_message(variables, rehearsal)
      said = { version: Native::BOUNDARY, handlers: registry.methods_by_name, resolvers: registry.resolver_names,
               publishers: @publishers.names, subscriptions: @subscribers.globs, variables: variables }
      rehearsal ? { **said, rehearsal: { steps: rehearsal } } : said
    end

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
        batch["events"].each { |told| @subscribers.tell(told["subscription"], told["event"]) }
        questions = batch["questions"]
        Thread.new { answer(questions) } unless questions.empty?
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
      context = run.context
      handler = @registry.find(context.handler_name, run.entry, context.event["resolver"])
      if handler.nil?
        refuse(run, Outcome.failure("the handler `#{context.handler_name}` was unregistered"))
      elsif !@threads.run { run_handler(run, handler) }
        refuse(run, Outcome.failure("too many handlers hang on after their time", error_type: "worker_exhausted"))
      end
    rescue Exception => e # no thread can be started, no memory is left
      refuse(run, Outcome.failed(run.context, e))
    end

    # There may be no thread that could hand it in.
    def refuse(run, result)
      end_run(run, result)
      hand_in
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

    # One that publishes is handed in at once, because its publishers are told; of the others many at a time.
    def end_run(run, result)
      # The handler came back in a process that it forked: the attempt is the other one's.
      exit!(1) if Process.pid != @process
      parts = Outcome.encoded(run.id, result)
      events = published(run.context, parts)
    ensure
      # Also where the user's code ended the thread.
      hand_over_outcome(run, parts || Outcome.encoded(run.id, Outcome.of_killed), events || [])
    end

    def published(context, parts)
      (context.event["publishes"] || []).empty? ? [] : @publishers.mappings(context, parts)
    end

    def hand_over_outcome(run, parts, events)
      parts["events"] = "[#{events.map(&:encoded).join(",")}]" unless events.empty?
      outcome = Outcome.message(parts)
      @lock.synchronize do
        @runs.delete(run.id)
        @outcomes << outcome if events.empty?
      end
      return @threads.round if events.empty?

      events.each(&:handed_in) if complete([outcome]) == ["accepted"]
    end

    # What has gathered.
    def hand_in
      outcomes = @lock.synchronize { @outcomes.shift(@outcomes.size) }
      return if outcomes.empty? || complete(outcomes)

      # One that can't be read must not cost the others; those that were taken are over.
      outcomes.each { |outcome| complete([outcome]) } if outcomes.size > 1
    end

    # Answers the verdicts; nil where it is refused.
    def complete(outcomes)
      JSON.parse(@native.complete("{\"outcomes\":[#{outcomes.join(",")}]}"))["verdicts"]
    rescue Errors::WorkerError => e
      TaskerCore.logger.error("#{outcomes.size} outcomes were refused: #{e.message}") if e.code != "stopped"
      e.code == "stopped" ? [] : nil
    rescue Exception => e # the attempts end by their time
      TaskerCore.logger.error("#{outcomes.size} outcomes could not be handed in: #{Outcome.said(e)}")
      nil
    end

    # Asks resolvers, which may take their time: the steps that wait need not wait for that.
    def answer(questions)
      answers = questions.map do |each|
        { **each, "found" => !@registry.find(*each.values_at("callable", "method", "resolver")).nil? }
      end
      @native.complete(JSON.generate({ outcomes: [], answers: answers }))
    rescue Errors::WorkerError # it has stopped
      nil
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
