# frozen_string_literal: true

require "tasker_core"

# The registration of a user at several services.
module Accounts
  extend TaskerCore::StepHandler::Functional

  step_handler "accounts.Create", inputs: [:email] do |email|
    email = email.strip.downcase
    raise TaskerCore::ValidationError, "#{email} is no address" unless email.match?(/\A[^@]+@.*\./)

    { user_id: "user:#{email}", email: email }
  end

  step_handler "billing.SetUp", inputs: [:plan], depends_on: { account: "create_account" } do |plan, account, context|
    price = context.get_config(:price_cents)[plan]
    raise TaskerCore::PermanentError, "the plan #{plan} has no price" if price.nil?

    { account: price.positive? ? "billing:#{account["user_id"]}" : nil, price_cents: price }
  end

  step_handler "preferences.SetDefaults", inputs: [:plan] do |plan|
    { newsletter: false, theme: "light", reports: plan == "pro" }
  end

  earlier = { account: "create_account", preferences: "set_preferences" }
  step_handler "mail.SendWelcome", depends_on: earlier do |account, preferences, context|
    raise TaskerCore::ServiceUnavailableError, "the mail server is busy" unless context.retry?

    { to: account["email"], template: preferences["reports"] ? "welcome_pro" : "welcome" }
  end

  earlier = { account: "create_account", billing: "set_up_billing", welcome: "send_welcome" }
  step_handler "accounts.Activate", depends_on: earlier do |account, billing, welcome|
    { user_id: account["user_id"], status: "active", welcomed: welcome["to"], price_cents: billing["price_cents"] }
  end
end
