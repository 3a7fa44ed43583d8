# frozen_string_literal: true

module TaskerCore
  module Testing
    # A task that was run in memory, to its end.
    #
    # `status` is `complete`, `blocked_by_failures`, …; `elapsed` the seconds that retries were waited for, in the
    # task's time. `steps`, by name, have `state`, `attempts` and `result`; `attempts`, in their order, `step`,
    # `attempt`, `at_ms`, `outcome`, and `result` or `error`. `events` are those that were published, with their
    # `delivery_mode`.
    Workflow = Struct.new(:status, :elapsed, :steps, :attempts, :events, keyword_init: true) do
      # The results of the steps that are complete, by name.
      def results
        steps.select { |_, step| step["state"] == "complete" }.transform_values { |step| step["result"] }
      end

      # The attempts of one step.
      def attempts_of(step)
        attempts.select { |each| each["step"] == step.to_s }
      end
    end

    # A task in memory whose steps are run one after another.
    class Simulated
      def initialize(template, inputs, handlers: nil, environment: nil, most_runs: 10_000,
                     publishers: DomainEvents::PublisherRegistry.instance)
        @registry = handlers ? registry(handlers) : Registry::HandlerRegistry.instance
        @publishers = publishers
        @most_runs = most_runs
        said = { template: text(template), input: inputs, environment:, publishers: publishers.names }.compact
        @native = Native::Simulation.new(Portable.encode("the start", said))
      end

      def run
        runs = 0
        until (steps = JSON.parse(@native.next, max_nesting: false)["steps"]).empty?
          steps.each do |step|
            raise Error, "after #{@most_runs} runs of handlers the workflow has not ended" if (runs += 1) > @most_runs

            attempt(step)
          end
        end
        workflow(JSON.parse(@native.state, object_class: Record, max_nesting: false))
      end

      private

      def attempt(step)
        context = Types::StepContext.new(step)
        parts = Outcome.encoded(step["id"], returned(handler(step), step["method"], context))
        events = @publishers.mappings(context, parts)
        parts["events"] = "[#{events.map(&:encoded).join(",")}]" unless events.empty?
        @native.complete("{\"outcomes\":[#{Outcome.message(parts)}]}")
        events.each(&:handed_in)
      end

      def returned(handler, method, context)
        Outcome.of_return(handler.build(context.step_config).public_send(method, context))
      rescue Exception => e # as a worker
        Outcome.failed(context, e)
      end

      def handler(step)
        name, method, named = step.values_at("handler_name", "method", "resolver")
        others = @registry.resolver_names - [named]
        if named && others.size == @registry.resolver_names.size
          raise Errors::ConfigurationError, "no resolver `#{named}` for the step `#{step["step_name"]}`"
        end

        [*named, nil, *others].each do |resolver|
          found = @registry.find(name, method, resolver)
          return found if found&.handler_methods&.include?(method)
        end
        what = "no handler `#{name}` with the method `#{method}`"
        raise Errors::ConfigurationError, "#{what} for the step `#{step["step_name"]}`"
      end

      def registry(handlers)
        made = Registry::HandlerRegistry.new
        handlers.each { |*said| made.register(*said.flatten) }
        made
      end

      def text(template)
        template.to_s.include?("\n") ? template.to_s : File.read(template, encoding: "UTF-8")
      end

      def workflow(state)
        steps = state["steps"].to_h { |step| [step["name"], step] }
        events = state["events"].map { |each| each["event"].merge("delivery_mode" => each["delivery_mode"]) }
        Workflow.new(status: state["status"], elapsed: state["now_ms"] / 1000.0, steps:,
                     attempts: state["attempts"], events:)
      end
    end
  end
end
