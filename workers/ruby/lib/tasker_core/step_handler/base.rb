# frozen_string_literal: true

module TaskerCore
  module StepHandler
    # User code that runs one step. It may run more than once for the same step: see StepContext#idempotency_key.
    #
    # Each attempt has an instance of its own, on a thread of the worker's.
    class Base
      class << self
        # What templates call it: the name given here, else the class's.
        def handler_name(name = nil)
          @handler_name = name.to_s if name
          @handler_name || self.name
        end

        # The handler's own version.
        def handler_version(version = nil)
          @handler_version = version.to_s if version
          @handler_version || "1.0.0"
        end

        # What templates may name as `method`; each takes a context, as `call` does.
        def handler_methods(*methods)
          @handler_methods = methods.map(&:to_s) unless methods.empty?
          @handler_methods || (self == Base ? ["call"] : superclass.handler_methods)
        end

        # Every subclass, in the order of their definition.
        def known
          Base.instance_variable_get(:@known) || Base.instance_variable_set(:@known, [])
        end

        # The file that defines it.
        attr_accessor :source_file

        # Whether it can run: it has a name and the methods that it says.
        def runnable?
          !handler_name.nil? && instance_method(:call).owner != Base
        end

        # A new instance, with the settings where it takes them.
        def build(config = {})
          takes_config? ? new(config: config) : new
        end

        def takes_config?
          return @takes_config if defined?(@takes_config)

          parameters = instance_method(:initialize).parameters
          @takes_config = parameters.any? { |kind, name| kind == :keyrest || name == :config }
        end

        def inherited(subclass)
          super
          package = File.expand_path("..", __dir__)
          caller = caller_locations.find { |frame| !frame.absolute_path.to_s.start_with?(package) }
          subclass.source_file = caller&.absolute_path
          known << subclass
        end
      end

      attr_reader :config, :logger

      # `config` are the handler's settings in the template.
      def initialize(config: {}, logger: nil)
        @config = config || {}
        @logger = logger || TaskerCore.logger
      end

      # Makes one attempt. A value that is no StepHandlerCallResult is the result of a success.
      def call(_context)
        raise NotImplementedError, "#{self.class} has no call(context)"
      end

      # What templates call it.
      def handler_name
        self.class.handler_name
      end

      # What it is, for people.
      def metadata
        { "handler_name" => handler_name, "version" => self.class.handler_version, "capabilities" => capabilities }
      end

      # For people.
      def capabilities
        ["process"]
      end

      # A JSON Schema of the handler's settings, for people.
      def config_schema
        { "type" => "object", "properties" => {} }
      end

      # Whether the settings make sense; a handler that can tell says so here.
      def validate_config(_config = config)
        true
      end

      # The step is done.
      def success(result: {}, metadata: {})
        Types::StepHandlerCallResult.success(result:, metadata:)
      end

      # The attempt failed.
      def failure(message:, error_type: "UnexpectedError", error_code: nil, retryable: false, metadata: {},
                  retry_after: nil)
        Types::StepHandlerCallResult.error(message:, error_type:, error_code:, retryable:, metadata:, retry_after:)
      end
    end
  end
end
