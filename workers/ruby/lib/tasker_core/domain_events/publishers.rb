# frozen_string_literal: true

module TaskerCore
  module DomainEvents
    # What a publisher is given: one outcome of a step. `result` is the step's after a success, `error` a hash with
    # `message`, `error_type` and, where there is one, `error_code` after a failure; `metadata` is the outcome's.
    StepEventContext = Struct.new(:task_uuid, :step_uuid, :step_name, :namespace, :correlation_id, :attempt,
                                  :event_name, :result, :metadata, :error, keyword_init: true) do
      # Of a step's success.
      def self.from_step_context(step, result = nil, metadata = {}, **more)
        ids = %i[task_uuid step_uuid step_name namespace correlation_id attempt]
        new(**ids.to_h { |name| [name, step.public_send(name)] }, result:, metadata:, **more)
      end

      # What is published without a publisher: the result, or the error.
      def payload
        error || result
      end
    end

    # Makes the payload of the events whose templates name it (`publishes_events[].publisher`). It runs before the
    # outcome is handed in, so it should be quick and ask nobody.
    #
    # What it raises costs the event and nothing else: the step's outcome stays as it is, the event is not published,
    # and the worker logs and counts it.
    class BasePublisher
      # What templates call it: the name given here, else the class's.
      def self.publisher_name(name = nil)
        @publisher_name = name.to_s if name
        @publisher_name || self.name
      end

      def publisher_name
        self.class.publisher_name
      end

      # False publishes nothing. The template's condition holds already.
      def should_publish?(_ctx)
        true
      end

      # The payload that is published.
      def transform_payload(ctx)
        ctx.payload
      end

      # The event's `metadata`; none where this is empty.
      def additional_metadata(_ctx)
        {}
      end

      # The last word: false publishes nothing.
      def before_publish(_event_name, _payload, _metadata)
        true
      end

      # The outcome was handed in with the event. Whether the attempt counts, and the event with it, is seen later.
      def after_publish(_event_name, _payload, _metadata); end

      # A method of this publisher raised, or the payload can't be said in JSON.
      def on_publish_error(event_name, error, _payload)
        TaskerCore.logger.error("the publisher #{publisher_name} of #{event_name} failed: #{Outcome.said(error)}")
      end

      # Runs all methods as a worker does, without a worker: for tests. Answers whether there would be an event.
      def publish(ctx, event_name = nil)
        mapping = Mapping.new(self, event_name || ctx.event_name || ctx.step_name, ctx)
        mapping.handed_in
        mapping.published?
      end
    end

    # Publishes what would be published without it.
    class DefaultPublisher < BasePublisher
      publisher_name "default"
    end

    # What a publisher makes of one outcome.
    class Mapping
      def initialize(publisher, event_name, ctx)
        @publisher = publisher
        @name = event_name
        @answer = asked(ctx)
      rescue Exception => e # it must not change the step's outcome
        why = Outcome.text("#{Outcome.class_name(e)}: #{Outcome.said(e)}")
        @answer = { "error" => Portable.encode("the error", why) }
        failed(e)
      end

      # Whether there is an event.
      def published?
        @answer.key?("payload")
      end

      # For the boundary's outcome.
      def encoded
        names = { "name" => @name, "publisher" => @publisher.publisher_name }
        Outcome.message({ **names.to_h { |key, value| [key, Portable.encode(key, value)] }, **@answer })
      end

      # The outcome was taken.
      def handed_in
        @publisher.after_publish(@name, @payload, @metadata) if published?
      rescue Exception => e # the event is on its way
        failed(e)
      end

      private

      def asked(ctx)
        skip = { "skip" => "true" }
        return skip unless @publisher.should_publish?(ctx)

        @payload = @publisher.transform_payload(ctx)
        @metadata = @publisher.additional_metadata(ctx) || {}
        return skip unless @publisher.before_publish(@name, @payload, @metadata)

        answer = { "payload" => Portable.encode("the payload", @payload) }
        answer["metadata"] = Portable.encode("the metadata", @metadata) unless @metadata.empty?
        answer
      end

      def failed(error)
        @publisher.on_publish_error(@name, error, @payload)
      rescue Exception => e
        TaskerCore.logger.error("on_publish_error of #{@publisher.class.name}: #{Outcome.said(e)}")
      end
    end

    # The publishers of a worker, by name. Most programs have one: PublisherRegistry.instance.
    class PublisherRegistry
      class << self
        # The one of this process.
        def instance
          @instance ||= new
        end
      end

      def initialize
        @publishers = {}
        @is_frozen = false
      end

      # Registers a publisher under its name. Raises where the name is taken by another class, or it is too late.
      def register(publisher)
        raise Errors::ConfigurationError, "publishers are registered before the worker starts" if @is_frozen

        known = @publishers[publisher.publisher_name] ||= publisher
        return known if known.instance_of?(publisher.class)

        raise Errors::ConfigurationError, "a publisher named `#{publisher.publisher_name}` is registered already"
      end

      # The publisher of this name; nil where there is none.
      def get(name)
        @publishers[name.to_s]
      end

      # The publisher of this name, else a DefaultPublisher.
      def get_or_default(name = nil)
        get(name) || DefaultPublisher.new
      end

      # Every name, sorted.
      def names
        @publishers.keys.sort
      end

      # Raises where one of these is missing.
      def validate_required(names)
        missing = (names.map(&:to_s) - @publishers.keys).sort.map { |name| "`#{name}`" }
        raise Errors::ConfigurationError, "no publisher is registered as #{missing.join(", ")}" unless missing.empty?
      end

      # No more are taken from now on.
      def freeze!
        @is_frozen = true
      end

      # Whether #freeze! was called.
      def frozen?
        @is_frozen
      end

      # Forgets all, and takes more.
      def clear!
        @publishers.clear
        @is_frozen = false
      end

      # What the publishers make of an outcome (each key with its JSON), of the events that the step may publish.
      def mappings(context, parts)
        asked = context.event["publishes"] || []
        return [] if asked.empty? || parts["type"] == '"checkpoint_yield"'

        said = JSON.parse(Outcome.message(parts), max_nesting: false)
        failed = said["retryable"] ? "retryable" : "permanent"
        kind = said["type"] == "failure" ? failed : "success"
        error = said.slice("message", "error_type", "error_code").compact unless kind == "success"
        asked.filter_map do |declared|
          publisher = get(declared["publisher"])
          next unless publisher && declared["on"].include?(kind)

          more = { event_name: declared["name"], error: }
          ctx = StepEventContext.from_step_context(context, said["result"], said["metadata"] || {}, **more)
          Mapping.new(publisher, declared["name"], ctx)
        end
      end
    end
  end
end
