# frozen_string_literal: true

require "json"

module TaskerCore
  # From what a handler returned or raised to the boundary's outcome.
  module Outcome
    MESSAGE_CHARS = 8 * 1024
    LONGEST_S = 365 * 24 * 3600.0
    Result = Types::StepHandlerCallResult

    module_function

    # A plain value is a success.
    def of_return(value)
      Result === value ? value : Result.success(result: value)
    end

    # The failed attempt, told in the log: with its stack where the exception is nobody's intention.
    def failed(context, error)
      result = of_exception(error)
      log(context, error, result) unless context.cancelled?
      result
    end

    def log(context, error, result)
      said = "#{context.step_name} of task #{context.task_uuid} failed at attempt #{context.attempt}: #{result.message}"
      said += stack(error) if result.error_type == "handler_error"
      TaskerCore.logger.add(result.retryable ? Logger::WARN : Logger::ERROR, said)
    rescue Exception # a log that can't be written is no reason to lose the outcome
      nil
    end

    # An exception is a failed attempt, whatever it is; one that can't say what it is, too.
    def of_exception(error)
      case error
      when Errors::PermanentError, Errors::RetryableError then of_failure(error)
      else
        name, message = class_name(error), said(error)
        message = message.empty? || message == name ? name : "#{name}: #{message}"
        failure(message, metadata: { "exception" => name })
      end
    end

    # The handler's thread was ended: by `Thread#kill` or `Thread.exit`.
    def of_killed
      failure("the handler ended its thread without a result")
    end

    # A failed attempt that may be tried again.
    def failure(message, error_type: "handler_error", **more)
      Result.error(message:, error_type:, retryable: true, **more)
    end

    def of_failure(error)
      message = said(error)
      Result.error(
        message: message.empty? ? class_name(error) : message,
        error_type: error.error_type,
        error_code: error.error_code,
        retryable: error.is_a?(Errors::RetryableError),
        metadata: { "exception" => class_name(error), **Portable.named(error.metadata) },
        retry_after: error.is_a?(Errors::RetryableError) ? error.retry_after : nil
      )
    rescue Exception # a method of the user's raised
      failure("#{class_name(error)}: it can't say why")
    end

    # The text of an exception, even where asking for it raises.
    def said(error)
      # Without what Ruby adds for people at a terminal: the line of code, names that are alike.
      message = error.respond_to?(:original_message) ? error.original_message : error.message
      text(String === message ? message : message.inspect)
    rescue Exception => e
      "its message can't be said: #{class_name(e)}"
    end

    # The name of a value's class, without a method of the value's.
    def class_name(value)
      type = Kernel.instance_method(:class).bind_call(value)
      Module.instance_method(:name).bind_call(type) || "an anonymous class"
    end

    def stack(error)
      lines = error.backtrace
      lines ? lines.first(30).map { |line| "\n  #{text(line)}" }.join : ""
    rescue Exception # the user's own `backtrace`
      ""
    end

    # The boundary's outcome, of each key its JSON. What can't be encoded becomes a permanent failure that says where.
    def encoded(attempt, result)
      written(attempt, result)
    rescue Portable::NotPortable => e
      written(attempt, not_serializable(e.message))
    rescue Exception => e # a value whose own methods raise
      written(attempt, not_serializable("the result can't be encoded: #{class_name(e)}: #{said(e)}"))
    end

    def not_serializable(message)
      Result.error(message: text(message), error_type: "result_not_serializable", retryable: false)
    end

    def written(attempt, result)
      # An id is digits and a dot.
      parts = { "id" => "\"#{attempt}\"", **parts_of(result) }
      with_metadata = !Result::CheckpointYield.===(result) && result.metadata && !result.metadata.empty?
      parts["metadata"] = Portable.encode("the metadata", result.metadata) if with_metadata
      parts
    end

    # One object of these keys and their JSON.
    def message(parts)
      "{#{parts.map { |key, value| "\"#{key}\":#{value}" }.join(",")}}"
    end

    def parts_of(result)
      case result
      when Result::CheckpointYield
        said = { "cursor" => result.cursor, "items_processed" => result.items_processed,
                 "accumulated_results" => result.accumulated_results }
        encoded = said.to_h { |key, value| [key, Portable.encode("the checkpoint's #{key}", value)] }
        { "type" => '"checkpoint_yield"', **encoded }
      when Result::Success then { "type" => '"success"', "result" => Portable.encode("the result", result.result) }
      else failure_parts(result)
      end
    end

    def failure_parts(result)
      said = {
        "message" => text(result.message.to_s.empty? ? "no message" : result.message.to_s),
        "retryable" => result.retryable ? true : false,
        "error_type" => result.error_type && text(result.error_type.to_s),
        "error_code" => result.error_code && text(result.error_code.to_s),
        "retry_after_ms" => milliseconds(result.retry_after)
      }
      { "type" => '"failure"', **said.transform_values { |value| JSON.generate(value) } }
    end

    # What is no UTF-8 is no text, and an endless message helps nobody.
    def text(said)
      said = String.new(said)
      said.force_encoding(Encoding::UTF_8) if said.encoding == Encoding::BINARY
      said.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub("?")[0, MESSAGE_CHARS]
    end

    def milliseconds(seconds)
      return nil if seconds.nil?

      seconds = Float(seconds)
      seconds.nan? ? nil : (seconds.clamp(0.0, LONGEST_S) * 1000).round
    end
  end
end
