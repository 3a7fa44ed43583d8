# frozen_string_literal: true

module TaskerCore
  # What a block of `decision_handler` returns.
  class Decision
    attr_reader :step_names, :routing_context, :reason

    # Creates these steps.
    def self.route(steps, **routing_context)
      new(Array(steps), routing_context, nil)
    end

    # Creates none.
    def self.skip(reason = nil, **routing_context)
      new([], routing_context, reason)
    end

    def initialize(step_names, routing_context, reason)
      @step_names = step_names
      @routing_context = routing_context
      @reason = reason
      freeze
    end

    # What stands beside the decision in the result.
    def result_data
      said = { "reason" => reason }.compact
      routing_context.empty? ? said : { **said, "routing_context" => routing_context }
    end
  end

  # What a block of `batch_analyzer` returns: `0...total_items` in batches of `batch_size`.
  class BatchConfig
    attr_reader :total_items, :batch_size, :metadata

    def initialize(total_items:, batch_size:, metadata: {})
      @total_items = total_items
      @batch_size = batch_size
      @metadata = metadata
      freeze
    end
  end

  module StepHandler
    # Handlers as blocks.
    #
    #   include TaskerCore::StepHandler::Functional
    #
    #   step_handler "payments.charge", depends_on: { cart: "validate_cart" }, inputs: [:currency] do |cart, currency|
    #     { charged: cart["total"], currency: currency }
    #   end
    #
    # A block is given what its parameters name, with or without a colon: dependencies, inputs, `context`. It is left
    # with its last value or with `next`. Each of these answers the class that it made.
    #
    # `depends_on` gives results of earlier steps: `name: "step"`, or `name: ["step", Model]`. `inputs` gives keys of
    # the task's context, nil where one is absent and the parameter has no default; or, with a class instead of a list,
    # the whole context as one, under the name `inputs`.
    module Functional
      Decision = TaskerCore::Decision
      BatchConfig = TaskerCore::BatchConfig

      module_function

      # Makes the block the handler of this name.
      def step_handler(name, depends_on: {}, inputs: [], version: "1.0.0", &block)
        Made.handler(name, Base, Arguments.new(depends_on, inputs, block), version) { |_, value| value }
      end

      # For steps of type `decision`: the block returns a Decision.
      def decision_handler(name, depends_on: {}, inputs: [], version: "1.0.0", &block)
        Made.handler(name, StepHandler::Decision, Arguments.new(depends_on, inputs, block), version) do |handler, value|
          next value if value.is_a?(Types::StepHandlerCallResult)
          unless value.is_a?(TaskerCore::Decision)
            raise Errors::ConfigurationError, "a decision handler returns a Decision, not #{Outcome.class_name(value)}"
          end

          handler.decision_success(steps: value.step_names, result_data: value.result_data)
        end
      end

      # For steps of type `batchable`: the block returns a BatchConfig or a list of batches.
      def batch_analyzer(name, worker_template: nil, depends_on: {}, inputs: [], version: "1.0.0", &block)
        arguments = Arguments.new(depends_on, inputs, block)
        Made.handler(name, StepHandler::Batchable, arguments, version) do |handler, value|
          next value if value.is_a?(Types::StepHandlerCallResult)

          Made.split(handler, value, worker_template)
        end
      end

      # For steps of type `batch_worker`: the block is given its batch as `batch_context`. It is not called where there
      # is nothing to do.
      def batch_worker(name, depends_on: {}, inputs: [], version: "1.0.0", &block)
        arguments = Arguments.new(depends_on, inputs, block, batch_context: :get_batch_context)
        Made.handler(name, StepHandler::Batchable, arguments, version, is_worker: true) { |_, value| value }
      end

      # For steps that make requests: the block is given the handler, which has Mixins::API, as `api`. An ApiResponse
      # that it returns is a success or a failure by its status.
      def api_handler(name, base_url: nil, timeout: 30, headers: {}, depends_on: {}, inputs: [], version: "1.0.0",
                      &block)
        arguments = Arguments.new(depends_on, inputs, block, api: :itself)
        made = Made.handler(name, Api, arguments, version) do |handler, value|
          value.is_a?(ApiResponse) ? handler.process_response(value).body : value
        end
        made.base_url(base_url)
        made.default_timeout(timeout)
        made.default_headers(headers)
        made
      end

      # Classes of blocks.
      module Made
        module_function

        def handler(name, parent, arguments, version, is_worker: false, &finish)
          Class.new(parent) do
            handler_name name
            handler_version version
            define_method(:call) do |context|
              no_op = is_worker ? handle_no_op_worker(context) : nil
              no_op || finish.call(self, arguments.call(self, context))
            end
          end
        end

        def split(handler, value, worker_template_name)
          case value
          when BatchConfig
            cursors = handler.create_cursor_ranges(value.total_items, value.batch_size)
            more = { total_items: value.total_items, batch_metadata: value.metadata }
          when Array then cursors, more = value, {}
          else
            raise Errors::ConfigurationError, "a batch analyzer returns a BatchConfig, not #{Outcome.class_name(value)}"
          end
          handler.create_batches_outcome(cursor_configs: cursors, worker_template_name:, **more)
        end
      end

      # What a block is given.
      class Arguments
        # `own` are what the handler itself gives, by the name of its method.
        def initialize(depends_on, inputs, block, **own)
          raise ArgumentError, "a handler needs a block" unless block

          @block = block
          @given = { context: ->(_, context) { context } }
          own.each { |name, method| @given[name] = ->(handler, context) { own_value(handler, method, context) } }
          @implied = @given.keys
          depends_on.each { |name, said| @given[name.to_sym] = dependency(*said) }
          declare_inputs(inputs)
        end

        def call(handler, context)
          @parameters ||= @block.parameters.tap { |parameters| check(parameters) }
          positional, named = [], {}
          @parameters.each do |kind, name|
            next named.update(others(handler, context)) if kind == :keyrest
            next if name && !@given.key?(name)

            # One without a name is that of `&:input_data` and its like.
            value = name ? @given[name].call(handler, context) : context
            case kind
            when :req, :opt then positional << value
            when :keyreq then named[name] = value
            when :key then named[name] = value unless value.nil?
            end
          end
          @block.call(*positional, **named)
        end

        private

        def check(parameters)
          taken = parameters.filter_map { |kind, name| name unless %i[rest keyrest block].include?(kind) }
          unknown = taken - @given.keys
          unless unknown.empty?
            raise Errors::ConfigurationError, "the block takes `#{unknown.first}`, which nothing gives it"
          end
          return if parameters.any? { |kind, _| kind == :keyrest }

          unused = @given.keys - @implied - taken
          return if unused.empty?

          raise Errors::ConfigurationError, "the block has no parameter `#{unused.first}`, which is declared for it"
        end

        def others(handler, context)
          names = @given.keys - @parameters.map(&:last)
          names.to_h { |name| [name, @given[name].call(handler, context)] }
        end

        def own_value(handler, method, context)
          method == :itself ? handler : handler.public_send(method, context)
        end

        def dependency(step, model = nil)
          lambda do |_, context|
            value = context.get_dependency_result(step)
            model && value ? typed(model, value, "the result of `#{step}`") : value
          end
        end

        def declare_inputs(inputs)
          if inputs.is_a?(Module)
            @given[:inputs] = ->(_, context) { typed(inputs, context.input_data, "the input") }
          else
            Array(inputs).each { |key| @given[key.to_sym] = ->(_, context) { context.get_input(key) } }
          end
        end

        # Structs and Data take the members that they have; other classes all, as keywords.
        def typed(model, value, what)
          raise TypeError, "it is no object" unless value.is_a?(Hash)

          named = value.transform_keys(&:to_sym)
          return model.new(**named) unless model.respond_to?(:members)

          known = named.slice(*model.members)
          by_keywords = !(model < Struct) || model.keyword_init?
          by_keywords ? model.new(**known) : model.new(*model.members.map { |member| known[member] })
        rescue StandardError => e
          raise Errors::ValidationError, "#{what} is no #{model.name}: #{e.message}"
        end
      end
    end
  end
end
