# frozen_string_literal: true

module TaskerCore
  module Types
    # What a handler returns. Make one with StepHandlerCallResult.success, .error or a mixin's methods.
    class StepHandlerCallResult
      attr_reader :metadata

      class << self
        # The step is done; later steps read `result`.
        def success(result: {}, metadata: {})
          Success.new(result: NilClass === result ? {} : result, metadata: metadata || {})
        end

        # The attempt failed. `retry_after`: seconds until the next attempt; the template's `max_backoff_ms` caps it.
        def error(message:, error_type: "UnexpectedError", error_code: nil, retryable: false, metadata: {},
                  retry_after: nil)
          Error.new(message:, error_type:, error_code:, retryable:, metadata: metadata || {}, retry_after:)
        end
        alias failure error

        # Stores how far the step got and runs its handler again from there at once, in the same attempt. After a failure
        # or a crash the next attempt begins there.
        def checkpoint_yield(cursor:, items_processed:, accumulated_results: nil)
          CheckpointYield.new(cursor:, items_processed:, accumulated_results:)
        end

        # The failed attempt that an exception stands for.
        def from_exception(exception)
          Outcome.of_exception(exception)
        end
      end

      # Whether the attempt did not fail.
      def success?
        true
      end

      # Whether the attempt failed.
      def failure?
        !success?
      end

      # See StepHandlerCallResult.success.
      class Success < StepHandlerCallResult
        attr_reader :result

        def initialize(result:, metadata:)
          super()
          @result = result
          @metadata = metadata
        end
      end

      # See StepHandlerCallResult.error.
      class Error < StepHandlerCallResult
        attr_reader :message, :error_type, :error_code, :retryable, :retry_after
        alias retryable? retryable

        def initialize(message:, error_type:, error_code:, retryable:, metadata:, retry_after:)
          super()
          @message = message
          @error_type = error_type
          @error_code = error_code
          @retryable = retryable
          @metadata = metadata
          @retry_after = retry_after
        end

        def success?
          false
        end
      end

      # See StepHandlerCallResult.checkpoint_yield.
      class CheckpointYield < StepHandlerCallResult
        attr_reader :cursor, :items_processed, :accumulated_results

        def initialize(cursor:, items_processed:, accumulated_results:)
          super()
          @cursor = cursor
          @items_processed = items_processed
          @accumulated_results = accumulated_results
          @metadata = {}
        end
      end
    end
  end
end
