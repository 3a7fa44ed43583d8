# frozen_string_literal: true

module TaskerCore
  # See domain_events.rb.
  module DomainEvents
    # Hears fast and broadcast events of the steps that this process's worker runs, one after another on a thread of its
    # own. Best effort: what comes while 1,024 wait is dropped. What must not be lost is durable.
    class BaseSubscriber
      # Globs for names of events: `*` stands for any number of characters, `?` for one.
      def self.subscribes_to(*globs)
        @globs = globs.flatten.map(&:to_s) unless globs.empty?
        @globs || (self == BaseSubscriber ? [] : superclass.subscribes_to)
      end

      def subscribes_to
        self.class.subscribes_to
      end

      # One event: `event_name`, `event_id`, `payload`, `metadata` and all that docs/domain-events.md lists.
      def handle(_event)
        raise NotImplementedError, "#{self.class} has no handle(event)"
      end

      # False passes over the event.
      def before_handle(_event)
        true
      end

      # The event was handled.
      def after_handle(_event); end

      # A method of this subscriber raised; the event is lost to it.
      def on_handle_error(event, error)
        why = "#{Outcome.class_name(error)}: #{Outcome.said(error)}"
        TaskerCore.logger.error("#{self.class.name} failed at #{event["event_name"]}: #{why}#{Outcome.stack(error)}")
      end

      # Whether it hears events of this name.
      def matches?(event_name)
        subscribes_to.any? { |glob| DomainEvents.matches?(glob, event_name) }
      end

      # Handles an event; answers whether nothing was raised.
      def handle_event_safely(event)
        if before_handle(event)
          handle(event)
          after_handle(event)
        end
        true
      rescue Exception => e # the next event is another one
        begin
          on_handle_error(event, e)
        rescue Exception => told
          TaskerCore.logger.error("on_handle_error of #{self.class.name}: #{Outcome.said(told)}")
        end
        false
      end
    end

    # Whether a whole name matches: `*` stands for any number of characters, `?` for one.
    def self.matches?(glob, name)
      pattern = glob.chars.map { |each| { "*" => ".*", "?" => "." }.fetch(each) { Regexp.escape(each) } }.join
      name.match?(/\A#{pattern}\z/m)
    end

    # A subscriber with its thread.
    class Listener
      INBOX = 1024
      LAST_WORDS = 2.0

      attr_reader :subscriber, :globs, :counts

      def initialize(subscriber)
        @subscriber = subscriber
        @globs = subscriber.subscribes_to
        @counts = { handled: 0, failed: 0, dropped: 0 }
        @inbox = Thread::Queue.new
      end

      # Also where a handler has ended the thread: it has lost that event only.
      def start
        return if @thread&.alive?

        @thread = Thread.new { listen }
        @thread.name = "tasker-subscriber"
      end

      # Once what waits is handled.
      def stop
        return unless @thread

        @inbox << nil
        start
        @thread.join(LAST_WORDS)
        @thread = nil
      end

      # Of the globs that match an event, the first one counts: each event is heard once.
      def tell(glob, event)
        return unless glob == globs.find { |each| DomainEvents.matches?(each, event["event_name"]) }
        return @counts[:dropped] += 1 if @inbox.size >= INBOX

        @inbox << event
        start if @thread
      end

      private

      def listen
        Thread.current.report_on_exception = false
        while (event = @inbox.pop)
          begin
            outcome = :failed
            outcome = :handled if subscriber.handle_event_safely(event)
          ensure
            @counts[outcome] += 1
          end
        end
      end
    end

    # Who hears events in this process. The worker starts and stops them with itself.
    class SubscriberRegistry
      class << self
        # The one of this process.
        def instance
          @instance ||= new
        end
      end

      def initialize
        @listeners = []
        @declared = nil
      end

      # Registers a subscriber, and makes one of a class; answers it. A class that is registered already stays as it is.
      # While the worker runs, what is subscribed to must have been so at its start.
      def register(subscriber)
        if subscriber.is_a?(Class)
          known = @listeners.find { |each| each.subscriber.instance_of?(subscriber) }
          return known.subscriber if known

          subscriber = subscriber.new
        end
        listener = Listener.new(subscriber)
        fresh = @declared ? listener.globs - @declared : []
        unless fresh.empty?
          raise Errors::ConfigurationError, "the worker was started without a subscriber to `#{fresh.first}`"
        end

        @listeners += [listener]
        listener.start if @declared
        subscriber
      end

      # Forgets it, once it has handled what waits.
      def unregister(subscriber)
        gone, @listeners = @listeners.partition { |each| each.subscriber.equal?(subscriber) }
        gone.each(&:stop)
      end

      # What all of them subscribe to.
      def globs
        @listeners.flat_map(&:globs).uniq.sort
      end

      # Begins to hear. The worker does so at its start.
      def start_all
        @declared = globs
        @listeners.each(&:start)
      end

      # Ends, once what waits is handled.
      def stop_all
        @listeners.each(&:stop)
        @declared = nil
      end

      # Ends and forgets all.
      def clear!
        stop_all
        @listeners = []
      end

      # How many `subscribers` there are, and events `handled`, `failed` and `dropped`.
      def stats
        counts = %i[handled failed dropped].to_h { |key| [key, @listeners.sum { |each| each.counts[key] }] }
        { subscribers: @listeners.size, **counts }
      end

      # Hands on an event that the boundary brought for this glob.
      def tell(glob, event)
        told = Record[event.merge("event_name" => event["name"])]
        ids = event.slice("task_uuid", "step_uuid", "step_name", "namespace", "correlation_id")
        told["metadata"] = Record[ids.merge(event["metadata"] || {})]
        @listeners.each { |each| each.tell(glob, told) }
      end
    end
  end
end
