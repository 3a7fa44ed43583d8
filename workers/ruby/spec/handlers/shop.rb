# frozen_string_literal: true

require "tasker_core"

# A step that publishes, a publisher, and who hears it.
module Shop
  # Says of a payment what its receipt says.
  class Receipt < TaskerCore::DomainEvents::BasePublisher
    publisher_name "receipt"

    def should_publish?(ctx)
      ctx.error || ctx.result["publisher"] != "skip"
    end

    def transform_payload(ctx)
      error = ctx.error
      if error
        return { why: error["error_type"], code: error["error_code"], attempt: ctx.attempt, log: error["message"] }
      end

      case ctx.result["publisher"]
      when "raise" then raise KeyError, "a receipt"
      when "exit" then Thread.exit
      when "unsayable" then { amount: Float::NAN }
      else { amount: ctx.result["amount"], log: ctx.result["log"] }
      end
    end

    def additional_metadata(ctx)
      { by: publisher_name, event: ctx.event_name }
    end

    def before_publish(_event_name, payload, _metadata)
      !payload[:log].to_s.end_with?("unwanted")
    end

    def after_publish(event_name, payload, _metadata)
      Shop.note(payload[:log], "published #{event_name}") if payload[:amount]
    end

    def on_publish_error(event_name, error, payload)
      super
      raise SystemExit, "a publisher may do this too"
    end
  end

  # Hears everything twice over, by two globs; raises at every second one.
  class Ear < TaskerCore::DomainEvents::BaseSubscriber
    subscribes_to "order.*", "*.tried"

    def before_handle(event)
      !log_of(event).nil?
    end

    def handle(event)
      @heard = @heard.to_i + 1
      said = { name: event.event_name, payload: event.payload, by: event.metadata["by"] }
      Shop.note(log_of(event), JSON.generate(said))
      raise SystemExit, "a subscriber may do this" if @heard.even?
    end

    def log_of(event)
      event.payload["log"] || event.payload["message"]
    end
  end

  def self.note(log, line)
    File.open(log, "a") { |out| out.write("#{line}\n") }
  end
end

TaskerCore::StepHandler::Functional.step_handler "shop.pay", inputs: %i[do log] do |do:, log:, context:|
  wanted = binding.local_variable_get(:do)
  raise TaskerCore::PermanentError.new(log, error_type: "broke", error_code: "E1") if wanted == "fail"
  raise TaskerCore::RetryableError.new(log, retry_after: 0) if wanted == "later" && !context.retry?

  { amount: 5, card: "4711", log: log, publisher: wanted }
end

TaskerCore::DomainEvents::PublisherRegistry.instance.register(Shop::Receipt.new)
TaskerCore::DomainEvents::SubscriberRegistry.instance.register(Shop::Ear)
