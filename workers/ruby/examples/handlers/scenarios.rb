# frozen_string_literal: true

require "tasker_core"

# What can go wrong with a call, and what a handler says of it.
module Scenarios
  extend TaskerCore::StepHandler::Functional

  step_handler "scenarios.Call", inputs: [:scenario] do |scenario, context|
    case [scenario, context.attempt]
    in ["flaky", 1 | 2] then raise TaskerCore::NetworkError, "the other side is away"
    in ["rate_limited", 1] then raise TaskerCore::RateLimitError.new("too many calls", retry_after: 0.2)
    in ["invalid", _] then raise TaskerCore::ValidationError.new("the amount is negative", error_code: "NEGATIVE")
    # As any error that a handler does not rescue: nobody said that trying again is useless, so it is tried.
    in ["broken", _] then raise "nobody thought of this"
    else { scenario: scenario, attempts: context.attempt }
    end
  end

  step_handler "scenarios.Tell", depends_on: { called: "call" } do |called|
    { told: "#{called["scenario"]}: came through at attempt #{called["attempts"]}" }
  end
end
