# frozen_string_literal: true

require "json"
require "securerandom"
require "tasker_core"

module TaskerCore
  # Handlers alone, and whole workflows, without PostgreSQL or a worker.
  #
  #   context = TaskerCore::Testing.make_context(dependencies: { validate_cart: { total: 5 } })
  #   TaskerCore::Testing.run(Charge, context).result   # => {"charged" => 5}
  #
  #   order = TaskerCore::Testing.run_workflow("templates/order.yaml", { items: 3 }, handlers: [ValidateCart, Charge])
  #   order.results["charge"]   # => {"charged" => 5}
  module Testing
    module_function

    # The context of an attempt, with values as they come from JSON. `batch` is a cursor (`start_cursor`, `end_cursor`,
    # …); an empty one is a batch worker that has nothing to do. `timeout` is in seconds.
    def make_context(inputs = {}, dependencies: {}, config: {}, attempt: 1, max_attempts: 3, batch: nil,
                     checkpoint: nil, step_name: "step", namespace: "test", timeout: 30.0, cancelled: false)
      task = SecureRandom.uuid
      step = {
        id: "0.0", task_uuid: task, step_uuid: SecureRandom.uuid, correlation_id: task, namespace:, template: "test",
        template_version: "1.0.0", step_name:, handler_name: "test", method: "call", attempt:, max_attempts:,
        idempotency_key: "#{task}:#{step_name}", ms_left: timeout * 1000, cancelled:, input: inputs,
        step_config: config, dependency_results: dependencies, checkpoint: checkpoint && stored(checkpoint),
        batch_config: nil, batch: batch && told(batch), batch_workers: {}, batch_failures: {}
      }
      Types::StepContext.new(JSON.parse(Portable.encode("the context", step), max_nesting: false))
    end

    # Calls a handler (a class, as blocks are too, or an instance) as a worker would: exceptions become failures, and
    # what can't be encoded `result_not_serializable`. A result is answered as later steps would read it.
    def run(handler, context = make_context, method: "call")
      result = called(handler, context, method)
      said = JSON.parse(Outcome.message(Outcome.encoded("0.0", result)), max_nesting: false)
      case said["type"]
      when "success"
        Types::StepHandlerCallResult.success(result: said["result"], metadata: said["metadata"])
      when "failure"
        result.failure? && said["error_type"] == result.error_type ? result : refused(said)
      else Types::StepHandlerCallResult.checkpoint_yield(**said.except("id", "type").transform_keys(&:to_sym))
      end
    end

    # Runs all steps of a template (a path, or its YAML) in this process: decisions, batches, checkpoints, retries and
    # events as a server and a worker have them, with the lifecycle in memory. Backoffs pass in no time: the task has a
    # time of its own, which goes on to the next retry when there is nothing else to do. Answers a Workflow.
    #
    # `handlers` are classes, as blocks are too, or a hash from names to them; without them those of
    # HandlerRegistry.instance run. `environment` is whose overrides of the template count. Not simulated: timeouts,
    # cancels, limits of resources. Raises ConfigurationError where a handler is missing, and what a server would refuse
    # as WorkerError.
    def run_workflow(template, inputs = nil, **more)
      Simulated.new(template, inputs, **more).run
    end

    class << self
      private

      def called(handler, context, method)
        handler = handler.build(context.step_config) if handler.is_a?(Class)
        Outcome.of_return(handler.public_send(method, context))
      rescue Exception => e # as a worker
        Outcome.failed(context, e)
      end

      def refused(said)
        Types::StepHandlerCallResult.error(message: said["message"], error_type: said["error_type"], retryable: false)
      end

      def stored(checkpoint)
        { cursor: nil, items_processed: 0, accumulated_results: nil, **checkpoint }
      end

      def told(batch)
        batch.empty? ? { is_no_op: true } : { is_no_op: false, batch_id: "001", **batch }
      end
    end
  end
end

require_relative "testing/workflow"
