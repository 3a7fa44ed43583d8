# frozen_string_literal: true

require_relative "products"

# Valuing a stock with checkpoints: what was counted before a failure is not counted again.
module Stock
  extend TaskerCore::StepHandler::Functional

  step_handler "stock.Value", inputs: %i[products_file fail_at] do |products_file, fail_at, context|
    products = Products.read(products_file)
    start = context.checkpoint_cursor || 0
    counted = context.accumulated_results || { "units" => 0, "stock_value_cents" => 0, "began_at" => [] }
    # The row that each attempt began with.
    counted["began_at"] << start if counted["began_at"].size < context.attempt
    raise TaskerCore::RetryableError, "interrupted at row #{start}" if fail_at == start && !context.retry?

    rows = products[start, context.get_config(:stride)]
    sums = Products.totals(rows)
    counted["units"] += sums[:units]
    counted["stock_value_cents"] += sums[:stock_value_cents]
    ending = start + rows.size
    next { products: products.size, **counted.transform_keys(&:to_sym) } if ending >= products.size

    TaskerCore::Types::StepHandlerCallResult.checkpoint_yield(cursor: ending, items_processed: ending,
                                                              accumulated_results: counted)
  end
end
