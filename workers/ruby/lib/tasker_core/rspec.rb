# frozen_string_literal: true

require "rspec/expectations"
require "tasker_core/testing"

module TaskerCore
  module Testing
    # For RSpec: `require "tasker_core/rspec"`.
    #
    #   RSpec.describe Charge do
    #     include TaskerCore::Testing::RSpecHelpers
    #
    #     it "charges what is in the cart" do
    #       expect(run_step(Charge, dependencies: { validate_cart: { total: 5 } })).to succeed_with("charged" => 5)
    #       expect(run_step(Charge)).to fail_with("validation_error", retryable: false)
    #     end
    #   end
    module RSpecHelpers
      # Runs a handler with a context that Testing.make_context makes of the rest.
      def run_step(handler, inputs = {}, method: "call", **more)
        Testing.run(handler, Testing.make_context(inputs, **more), method: method)
      end

      # Runs a whole workflow: see Testing.run_workflow.
      def run_workflow(template, inputs = nil, **more)
        Testing.run_workflow(template, inputs, **more)
      end

      RSpec::Matchers.define :succeed_with do |expected|
        match { |result| result.is_a?(Types::StepHandlerCallResult::Success) && values_match?(expected, result.result) }
        failure_message { |result| "expected a success with #{expected.inspect}, got #{result.inspect}" }
      end

      RSpec::Matchers.define :fail_with do |error_type, retryable: nil, message: nil|
        match do |result|
          result.failure? && values_match?(error_type, result.error_type) &&
            (retryable.nil? || result.retryable == retryable) &&
            (message.nil? || values_match?(message, result.message))
        end
        failure_message { |result| "expected a failure of #{error_type.inspect}, got #{result.inspect}" }
      end
    end
  end
end
