# frozen_string_literal: true

require "tasker_core"

# An order whose placing and payment other programs are told of.
module Announcements
  extend TaskerCore::StepHandler::Functional

  step_handler("events.Place", inputs: [:order_id]) { |order_id| { order_id: order_id, status: "placed" } }

  step_handler "events.Pay", inputs: %i[order_id amount_cents] do |order_id, amount_cents|
    { order_id: order_id, paid_cents: amount_cents }
  end

  # What others see of a payment: an amount as people write it, and nothing else.
  class Receipt < TaskerCore::DomainEvents::BasePublisher
    publisher_name "events.Receipt"

    def transform_payload(ctx)
      order_id, paid_cents = ctx.result.values_at("order_id", "paid_cents")
      { order_id: order_id, amount: "#{paid_cents / 100}.#{(paid_cents % 100).to_s.rjust(2, "0")}" }
    end
  end
end

TaskerCore::DomainEvents::PublisherRegistry.instance.register(Announcements::Receipt.new)
