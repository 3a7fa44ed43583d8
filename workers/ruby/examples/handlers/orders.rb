# frozen_string_literal: true

require_relative "products"

# Order fulfilment: validate → reserve → charge → ship, on an order file and the product catalogue.
#
# The card network is simulated and times out twice, so that the retries of `charge` can be watched. Nothing is written
# anywhere: the reservation and the charge exist in the steps' results only.
module Orders
  extend TaskerCore::StepHandler::Functional

  LINES = (1..200)
  QUANTITIES = (1..100)
  NEEDED = [%w[order_id], %w[customer name], %w[shipping_address street], %w[shipping_address postal_code],
            %w[shipping_address city], %w[payment token]].freeze

  step_handler "orders.Validate", inputs: [:order_file] do |order_file|
    order = Files.read_json(order_file)
    problems = problems_of(order)
    next order if problems.empty?

    raise TaskerCore::ValidationError.new("the order is not valid: #{problems.join("; ")}", error_code: "ORDER_INVALID")
  end

  step_handler "orders.Reserve", inputs: [:products_file], depends_on: { order: "validate" } do |order, products_file|
    reservation(order, Products.read(products_file).to_h { |product| [product.sku, product] })
  end

  step_handler "orders.Charge", depends_on: { reserved: "reserve" } do |reserved, context|
    if context.attempt <= context.get_config(:simulated_timeouts)
      raise TaskerCore::RetryableError.new("card network timeout", error_code: "CARD_NETWORK_TIMEOUT")
    end

    subtotal = reserved["subtotal_cents"]
    tax = percent(subtotal, context.get_config(:vat_percent))
    # The same on every attempt: a real provider recognises a repeated request by it.
    { charge_id: "charge:#{context.idempotency_key}", currency: context.get_config(:currency), tax_cents: tax,
      amount_cents: subtotal + tax, attempts: context.attempt }
  end

  earlier = { order: "validate", reserved: "reserve", charged: "charge" }
  step_handler "orders.Ship", depends_on: earlier do |order, reserved, charged, context|
    limit, grams = [context.get_config(:parcel_limit_grams), 1].max, reserved["weight_grams"]
    is_domestic = order.dig("shipping_address", "country") == context.get_config(:home_country)
    { order_id: order["order_id"], status: "shipped",
      carrier: is_domestic ? "domestic post" : "international courier",
      tracking_numbers: (1..([grams, 1].max.to_f / limit).ceil).map { |number| "#{order["order_id"]}-#{number}" },
      weight_grams: grams, charged_cents: charged["amount_cents"], currency: charged["currency"],
      charge_attempts: charged["attempts"] }
  end

  class << self
    private

    # Everything that is wrong with an order, so that one correction is enough.
    def problems_of(order)
      text = ->(*path) { path.reduce(order) { |value, key| value.is_a?(Hash) ? value[key] : nil }.to_s.strip }
      problems = NEEDED.select { |path| text[*path].empty? }.map { |path| "#{path.join(".")} is empty" }
      # Whether a mail could be sent there is for the mail server to say; this finds swapped fields.
      is_email = text["customer", "email"].match?(/\A[^@\s]+@[^@\s]*\.[^@\s]*\z/)
      problems << "customer.email is no e-mail address" unless is_email
      is_country = text["shipping_address", "country"].match?(/\A[A-Z]{2}\z/)
      problems << "shipping_address.country is no ISO 3166 code of two letters" unless is_country
      problems << "payment.method must be `card`" unless text["payment", "method"] == "card"
      problems + problems_of_lines(order["lines"])
    end

    def problems_of_lines(lines)
      return ["lines must hold #{LINES.min} to #{LINES.max} entries"] unless LINES.cover?(Array(lines).size)

      lines.each_with_index.flat_map do |line, at|
        is_second = lines.first(at).any? { |other| other["sku"] == line["sku"] }
        [*("lines[#{at}].quantity must be 1 to #{QUANTITIES.max}" unless QUANTITIES.cover?(line["quantity"])),
         *("lines[#{at}].sku comes twice" if is_second)]
      end
    end

    def reservation(order, catalogue)
      wanted = order["lines"].map { |line| [line["sku"], line["quantity"]] }
      unknown = wanted.map(&:first) - catalogue.keys
      unless unknown.empty?
        why = "the catalogue has no product #{unknown.join(", ")}"
        raise TaskerCore::ValidationError.new(why, error_code: "PRODUCT_UNKNOWN")
      end

      lines = wanted.map { |sku, count| [catalogue[sku], count] }
      short = lines.select { |product, count| product.stock < count }
      return reserved(order, lines) if short.empty?

      short = short.map { |product, count| "#{product.sku}: #{count} ordered, #{product.stock} there" }
      raise TaskerCore::PermanentError.new("not enough in stock: #{short.join("; ")}", error_code: "OUT_OF_STOCK")
    end

    def reserved(order, lines)
      told = lines.map do |product, count|
        { sku: product.sku, name: product.name, quantity: count, unit_price_cents: product.price_cents,
          total_cents: product.price_cents * count }
      end
      { reservation_id: "reservation:#{order["order_id"]}", lines: told,
        subtotal_cents: told.sum { |line| line[:total_cents] },
        weight_grams: lines.sum { |product, count| product.weight_grams * count } }
    end

    # A share of an amount that is not negative, half a cent rounded up.
    def percent(amount_cents, share)
      ((amount_cents * share) + 50) / 100
    end
  end
end
