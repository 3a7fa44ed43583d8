# frozen_string_literal: true

module TaskerCore
  # Domain events in Ruby: what is published of an outcome, and who in this process hears it (docs/domain-events.md).
  #
  #   class Receipt < TaskerCore::DomainEvents::BasePublisher
  #     publisher_name "receipt"
  #
  #     def transform_payload(ctx)
  #       { amount: ctx.result["amount"] }
  #     end
  #   end
  #
  #   class Mailer < TaskerCore::DomainEvents::BaseSubscriber
  #     subscribes_to "order.*"
  #
  #     def handle(event)
  #       deliver(event.payload)
  #     end
  #   end
  #
  #   TaskerCore::DomainEvents::PublisherRegistry.instance.register(Receipt.new)
  #   TaskerCore::DomainEvents::SubscriberRegistry.instance.register(Mailer)
  #
  # Register both before the worker starts, in a file of the handlers for example: a worker says at its start what it
  # has.
  module DomainEvents
  end
end

require_relative "domain_events/publishers"
require_relative "domain_events/subscribers"
