# frozen_string_literal: true

module TaskerCore
  module Types
    # One attempt of a step, as its handler sees it.
    #
    # `input_data` is the task's context, `step_config` the handler's `initialization` in the template,
    # `dependency_results` the results of all steps before this one by name, `step_inputs` of a batch worker `cursor`
    # and `is_no_op`. `idempotency_key` is the same at every attempt: give it to other systems, so that they recognise a
    # repeated request. `event` is the step as the boundary said it.
    class StepContext
      attr_reader :task_uuid, :step_uuid, :correlation_id, :namespace, :step_name, :handler_name, :attempt,
                  :max_attempts, :idempotency_key, :input_data, :step_config, :dependency_results, :step_inputs,
                  :checkpoint, :batch_config, :batch_failures, :event

      alias namespace_name namespace
      alias context input_data
      alias max_retries max_attempts

      # Whoever waits for a cancel, of whichever step, looks again at each.
      LOCK = Mutex.new
      CHANGED = ConditionVariable.new
      private_constant :LOCK, :CHANGED

      # From a step of the boundary's messages (docs/boundary.md). The block asks the worker whether the outcome still
      # counts.
      def initialize(step, &pulse)
        @event = step
        @task_uuid, @step_uuid, @correlation_id = step["task_uuid"], step["step_uuid"], step["correlation_id"]
        @namespace, @step_name, @handler_name = step["namespace"], step["step_name"], step["handler_name"]
        @attempt, @max_attempts = step["attempt"], step["max_attempts"]
        @idempotency_key = step["idempotency_key"]
        @input_data, @step_config = step["input"], step["step_config"] || {}
        @dependency_results, @checkpoint = step["dependency_results"], step["checkpoint"]
        @batch_config, @batch_failures = step["batch_config"], step["batch_failures"]
        @step_inputs = inputs_of(step["batch"])
        @deadline = now + (step["ms_left"] / 1000.0)
        @pulse = pulse
        @cancelled = step["cancelled"]
      end

      # Attempts before this one.
      def retry_count
        attempt - 1
      end

      # Whether there was an attempt before this one.
      def retry?
        attempt > 1
      end
      alias is_retry? retry?

      # Whether no attempt will follow, whatever comes of this one.
      def last_retry?
        attempt >= max_attempts
      end
      alias is_last_retry? last_retry?

      # Whether an attempt may follow this one.
      def retryable?
        !last_retry?
      end

      # One key of the task's context.
      def get_input(key, default = nil)
        input_data.is_a?(Hash) ? input_data.fetch(key.to_s, default) : default
      end
      alias get_task_field get_input

      # One key of the task's context; `default` where it is absent or null.
      def get_input_or(key, default)
        value = get_input(key)
        value.nil? ? default : value
      end

      # One key of the handler's settings.
      def get_config(key, default = nil)
        step_config.is_a?(Hash) ? step_config.fetch(key.to_s, default) : default
      end

      # The result of a step before this one.
      def get_dependency_result(step, default = nil)
        dependency_results.fetch(step.to_s, default)
      end

      # What lies at `path` in the result of a step before this one; nil where there is nothing.
      def get_dependency_field(step, *path)
        path.reduce(get_dependency_result(step)) do |value, key|
          case value
          when Hash then value[key.to_s]
          when Array then key.is_a?(Integer) ? value[key] : nil
          end
        end
      end

      # The names of the steps whose results are here.
      def get_dependency_result_keys
        dependency_results.keys
      end

      # The results of the steps whose names begin with `prefix`, in the order of the steps.
      def get_all_dependency_results(prefix = "")
        dependency_results.select { |step, _| step.start_with?(prefix.to_s) }.values
      end

      # Whether an earlier run stored how far it got.
      def has_checkpoint?
        !checkpoint.nil?
      end

      # Where to go on; nil at the first run.
      def checkpoint_cursor
        checkpoint && checkpoint["cursor"]
      end

      # How many items were processed so far.
      def checkpoint_items_processed
        checkpoint ? checkpoint["items_processed"] : 0
      end

      # What was gathered so far; nil at the first run.
      def accumulated_results
        checkpoint && checkpoint["accumulated_results"]
      end

      # Whether the outcome counts no more: the task was cancelled, the lease lost, or time is over. Stop then.
      def cancelled?
        @cancelled
      end

      # Waits until #cancelled?, at most this many seconds; answers whether it is.
      def wait_cancelled(seconds = nil)
        until_then = seconds && (now + seconds)
        LOCK.synchronize do
          until @cancelled
            left = until_then && (until_then - now)
            break if left && left <= 0

            CHANGED.wait(LOCK, left)
          end
          @cancelled
        end
      end

      # When the attempt's time is over, by the monotonic clock.
      attr_reader :deadline

      # Seconds until the attempt's time is over.
      def time_left
        [0.0, @deadline - now].max
      end

      # Whether the outcome still counts. The lease needs no heartbeat: it lasts as long as the handler runs.
      def heartbeat
        cancel! if @pulse && !cancelled? && !@pulse.call
        !cancelled?
      end

      # The worker says so.
      def cancel!
        LOCK.synchronize do
          @cancelled = true
          CHANGED.broadcast
        end
      end

      def inspect
        "#<#{self.class} #{namespace}/#{step_name} attempt #{attempt} of task #{task_uuid}>"
      end

      private

      def inputs_of(batch)
        return {} if batch.nil?

        { "is_no_op" => batch["is_no_op"], "cursor" => batch.reject { |key, _| key == "is_no_op" } }
      end

      def now
        Process.clock_gettime(Process::CLOCK_MONOTONIC)
      end
    end
  end
end
