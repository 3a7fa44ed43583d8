# frozen_string_literal: true

require "tasker_core"

# Approval of expenses: a decision creates the approvals that an amount needs, and a payment waits for those.
module Expenses
  extend TaskerCore::StepHandler::Functional

  step_handler "expenses.Classify", inputs: [:purpose] do |purpose, context|
    limits = context.get_config(:limits_cents)
    kind = limits.keys.sort.find { |each| purpose.downcase.include?(each) } || "other"
    limit = limits.fetch(kind) { raise TaskerCore::PermanentError, "there is no limit for other expenses" }
    { kind: kind, limit_cents: limit }
  end

  decision_handler "expenses.Route", inputs: [:amount_cents],
                                     depends_on: { found: "classify" } do |amount_cents, found, context|
    steps = approvals(amount_cents, found["limit_cents"], context.get_config(:finance_factor))
    TaskerCore::Decision.route(steps, **found.transform_keys(&:to_sym))
  end

  step_handler("expenses.ApproveAutomatically") { { by: "the limit" } }

  # In earnest this would send a message and be completed by hand; here everybody says yes.
  step_handler("expenses.Ask") { |context| { by: context.get_config(:who) } }

  step_handler "expenses.Pay", inputs: [:amount_cents] do |amount_cents, context|
    given = %w[ask_ approve_automatically].flat_map { |name| context.get_all_dependency_results(name) }
    raise TaskerCore::PermanentError, "nobody approved this expense" if given.empty?

    { paid_cents: amount_cents, approved_by: given.map { |approval| approval["by"] }.sort }
  end

  # The steps that approve an amount: below the limit nobody is asked, far above it finance too.
  def self.approvals(amount, limit, finance_factor)
    return ["approve_automatically"] if amount <= limit

    amount <= limit * finance_factor ? ["ask_manager"] : %w[ask_manager ask_finance]
  end
end
