# frozen_string_literal: true

module TaskerCore
  module StepHandler
    module Mixins
      # For handlers of steps of type `decision`: a result that names the steps to create.
      module Decision
        # For people.
        def capabilities
          super + ["decision"]
        end

        # Creates these steps, with what follows from them.
        def decision_success(steps:, result_data: {}, metadata: {})
          names = Array(steps).map(&:to_s)
          return decision_no_branches(result_data:, metadata:) if names.empty?

          decision_with_custom_outcome(outcome: { "type" => "create_steps", "step_names" => names }, result_data:, metadata:)
        end

        # Creates no step.
        def decision_no_branches(result_data: {}, metadata: {}, reason: nil)
          result_data = { "reason" => reason }.merge(result_data) if reason
          decision_with_custom_outcome(outcome: { "type" => "no_branches" }, result_data:, metadata:)
        end
        alias skip_branches decision_no_branches

        # A decision as the server reads it.
        def decision_with_custom_outcome(outcome:, result_data: {}, metadata: {})
          success(result: { **result_data, "decision_point_outcome" => outcome }, metadata: decided(metadata))
        end

        # No decision could be made.
        def decision_failure(message:, error_type: "decision_error", retryable: false, metadata: {})
          failure(message:, error_type:, retryable:, metadata: decided(metadata))
        end

        private

        def decided(metadata)
          { **metadata, "decision_handler" => handler_name, "decision_version" => self.class.handler_version }
        end
      end
    end

    # A handler of decisions.
    class Decision < Base
      include Mixins::Decision
    end
  end
end
