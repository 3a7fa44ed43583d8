# frozen_string_literal: true

# Errors come first: the extension raises one.
module TaskerCore
  # The root of all errors of this package.
  class Error < StandardError; end

  # Errors that say what is to become of a step: raise one in a handler.
  #
  # A permanent error ends the step. A retryable one is tried again as the template says, or after `retry_after`
  # seconds. Any other exception is retryable, because nobody said that it is not.
  module Errors
    # What RetryableError and PermanentError share.
    class StepFailure < Error
      class << self
        # The class of the error in outcomes; subclasses have their parent's unless they say another.
        def error_type(name = nil)
          @error_type = name if name
          @error_type || superclass.error_type
        end
      end

      attr_reader :error_type, :error_code, :metadata

      # `context` and `error_category` are kept in the metadata.
      def initialize(message = nil, error_type: nil, error_code: nil, metadata: {}, context: {}, error_category: nil)
        super(message)
        @error_type = error_type || self.class.error_type
        @error_code = error_code
        category = error_category ? { "error_category" => error_category } : {}
        @metadata = category.merge(context || {}, metadata || {})
      end
    end

    # Trying again may help; after `retry_after` seconds, where that is given.
    class RetryableError < StepFailure
      error_type "retryable_error"
      attr_reader :retry_after

      def initialize(message = nil, retry_after: nil, **more)
        super(message, **more)
        @retry_after = retry_after
      end
    end

    # Something took too long.
    class TimeoutError < RetryableError
      error_type "timeout"
    end

    # Another system could not be reached.
    class NetworkError < RetryableError
      error_type "network_error"
    end

    # Another system wants fewer requests.
    class RateLimitError < RetryableError
      error_type "rate_limit"
    end

    # Another system can't answer now.
    class ServiceUnavailableError < RetryableError
      error_type "service_unavailable"
    end

    # Somebody else holds what is needed.
    class ResourceContentionError < RetryableError
      error_type "resource_contention"
    end

    # Trying again can't help.
    class PermanentError < StepFailure
      error_type "permanent_error"
    end

    # The input is wrong.
    class ValidationError < PermanentError
      error_type "validation_error"
    end

    # What the step is about does not exist.
    class NotFoundError < PermanentError
      error_type "not_found"
    end

    # Another system does not know who we are.
    class AuthenticationError < PermanentError
      error_type "authentication_error"
    end

    # Another system does not let us.
    class AuthorizationError < PermanentError
      error_type "authorization_error"
    end

    # The handler is set up wrongly.
    class ConfigurationError < PermanentError
      error_type "configuration_error"
    end

    # A rule of the business forbids it.
    class BusinessLogicError < PermanentError
      error_type "business_logic_error"
    end

    # The worker or a simulation refuses. `code` is one of docs/boundary.md's, `stop_in_handler` or `already_running`.
    class WorkerError < Error
      attr_reader :code

      def initialize(code, message)
        super(message)
        @code = code
      end
    end

    # The server refuses a call of a Client, or none answers. `code` is the server's, or `USAGE`, `UNREACHABLE`,
    # `TIMEOUT`, `DECODE`; `status` and `retry_after` (seconds) are nil where the server did not say them.
    class ClientError < Error
      attr_reader :code, :status, :retry_after, :details

      def initialize(code:, message:, status: nil, retry_after: nil, details: {}, **)
        super(message)
        @code, @status, @retry_after, @details = code, status, retry_after, details
      end
    end

    # Whether trying again may help, by what was raised.
    module ErrorClassifier
      module_function

      # False for permanent errors only.
      def retryable?(error)
        !permanent?(error)
      end

      # True for permanent errors only.
      def permanent?(error)
        error.is_a?(PermanentError)
      end
    end
  end

  constants_of_errors = Errors.constants.select { |name| Errors.const_get(name).is_a?(Class) }
  constants_of_errors.each { |name| const_set(name, Errors.const_get(name)) }
end
