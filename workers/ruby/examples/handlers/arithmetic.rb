# frozen_string_literal: true

require "tasker_core"

# Arithmetic on one number: templates that show the shapes of graphs, not what handlers can do.
#
# Every operation names its operands in its configuration, because a step sees the results of all its ancestors, not of
# its parents alone.
module Arithmetic
  extend TaskerCore::StepHandler::Functional

  # The number that the step named by `of` has made; all of them, where it names several.
  def self.operands(context)
    Array(context.get_config(:of)).map { |step| context.get_dependency_field(step, :value) }
  end

  step_handler("arithmetic.Read", inputs: [:number]) { |number| { value: number } }

  step_handler("arithmetic.Add") { |context| { value: operands(context).first + context.get_config(:amount) } }

  step_handler("arithmetic.Multiply") { |context| { value: operands(context).first * context.get_config(:factor) } }

  step_handler("arithmetic.Square") { |context| { value: operands(context).first**2 } }

  step_handler("arithmetic.Sum") { |context| { value: operands(context).sum } }

  step_handler("arithmetic.Product") { |context| { value: operands(context).reduce(1, :*) } }
end
