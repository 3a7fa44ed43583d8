# frozen_string_literal: true

require "tasker_core"

# Ruby's part of a task that four languages work on.
module Polyglot
  extend TaskerCore::StepHandler::Functional

  # The first one, where several words are as long.
  step_handler "polyglot.FindLongest", inputs: [:text] do |text|
    { language: "ruby", longest: text.split.max_by(&:size).to_s }
  end
end
