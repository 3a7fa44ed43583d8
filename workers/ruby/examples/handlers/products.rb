# frozen_string_literal: true

require_relative "files"

# The product catalogue: a CSV file that several workflows read. No handlers are here.
module Products
  COLUMNS = %w[sku name category price stock reorder_level weight_grams supplier].freeze
  Product = Struct.new(:sku, :name, :price_cents, :stock, :weight_grams)

  module_function

  # Every product, in the file's order.
  def read(path)
    parse(path, Files.read_text(path))
  end

  # The same, of text that was read already. A SKU that comes twice is refused: which of the two stocks holds?
  def parse(path, text)
    known = {}
    Files.parse_csv(path, text, COLUMNS) do |row|
      sku = row["sku"]
      raise Files.malformed(path, "#{sku} comes twice") if known.key?(sku)

      numbers = [Files.cents(row["price"]), Files.quantity(row["stock"]), Files.quantity(row["weight_grams"])]
      known[sku] = Product.new(sku, row["name"], *numbers)
    end
  end

  # What these products come to.
  def totals(products)
    { products: products.size, units: products.sum(&:stock),
      stock_value_cents: products.sum { |product| product.stock * product.price_cents } }
  end
end
