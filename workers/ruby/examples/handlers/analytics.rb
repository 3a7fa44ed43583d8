# frozen_string_literal: true

require "date"
require_relative "files"

# An analytics pipeline: three extracts → three transforms → aggregate → insights.
#
# The extracts read files (CSV and JSON) into checked rows, the transforms reduce each source on its own, the aggregate
# joins the three, and the insights say what a person would look for.
module Analytics
  extend TaskerCore::StepHandler::Functional

  SALES = %w[date order_id customer_id sku quantity unit_price].freeze
  CUSTOMERS = %w[customer_id name country tier].freeze
  STOCK = %w[sku category warehouse on_hand].freeze

  step_handler "analytics.ExtractSales", inputs: [:sales_file] do |sales_file|
    { rows: Files.read_csv(sales_file, SALES) { |row| sale(row) } }
  end

  step_handler "analytics.ExtractCustomers", inputs: [:customers_file] do |customers_file|
    { rows: Files.read_json(customers_file).map { |row| CUSTOMERS.to_h { |key| [key, row.fetch(key)] } } }
  rescue KeyError, NoMethodError => e
    raise Files.malformed(customers_file, e.message)
  end

  step_handler "analytics.ExtractStock", inputs: [:stock_file] do |stock_file|
    rows = Files.read_csv(stock_file, STOCK) do |row|
      { sku: row["sku"], category: row["category"], on_hand: Files.quantity(row["on_hand"]) }
    end
    { rows: rows }
  end

  step_handler "analytics.TransformSales", depends_on: { extract: "extract_sales" } do |extract|
    rows = extract["rows"]
    # A negative quantity is a return.
    sold, returned = rows.partition { |row| row["quantity"].positive? }
    by_sku = rows.group_by { |row| row["sku"] }.transform_values do |of_sku|
      { units: of_sku.sum { |row| row["quantity"] }, revenue_cents: revenue(of_sku) }
    end
    { sold_cents: revenue(sold), returned_cents: revenue(returned), by_month: revenues(rows, "month"),
      by_customer: revenues(rows, "customer_id"), by_sku: by_sku }
  end

  step_handler "analytics.TransformCustomers", depends_on: { extract: "extract_customers" } do |extract|
    rows = extract["rows"]
    { tier_of: rows.to_h { |row| row.values_at("customer_id", "tier") }, by_tier: rows.map { |row| row["tier"] }.tally,
      by_country: rows.map { |row| row["country"] }.tally }
  end

  # One entry per product: what its warehouses hold together.
  step_handler "analytics.TransformStock", depends_on: { extract: "extract_stock" } do |extract|
    by_sku = extract["rows"].group_by { |row| row["sku"] }.transform_values do |rows|
      { category: rows.first["category"], on_hand: rows.sum { |row| row["on_hand"] } }
    end
    { by_sku: by_sku, units: by_sku.values.sum { |product| product[:on_hand] } }
  end

  sources = { sales: "transform_sales", customers: "transform_customers", inventory: "transform_stock" }
  step_handler "analytics.Aggregate", inputs: [:period_days],
                                      depends_on: sources do |sales, customers, inventory, period_days|
    by_tier = joined(sales["by_customer"], customers["tier_of"], "customer %s, whom the customer file")
    sold = sales["by_sku"].transform_values { |sku| sku["revenue_cents"] }
    categories = inventory["by_sku"].transform_values { |product| product["category"] }
    members = customers["by_tier"]
    { net_revenue_cents: sales["sold_cents"] + sales["returned_cents"], revenue_by_month: sales["by_month"],
      revenue_by_category: joined(sold, categories, "product %s, which the stock file"), revenue_by_tier: by_tier,
      revenue_per_customer_by_tier: members.to_h { |tier, count| [tier, by_tier.fetch(tier, 0).fdiv(count).truncate] },
      cover_days_by_sku: cover_days(sales["by_sku"], inventory["by_sku"], period_days) }
  end

  step_handler "analytics.Insights", depends_on: { told: "aggregate" } do |told, context|
    below = context.get_config(:cover_days_below)
    month, category, tier = %w[month category].map { |key| largest(told["revenue_by_#{key}"]) } +
                            [largest(told["revenue_per_customer_by_tier"])]
    running_out = told["cover_days_by_sku"].select { |_, days| days < below }.keys.sort
    headlines = [month && "#{month} was the best month", category && "#{category} is the top category",
                 tier && "#{tier} customers spend the most each",
                 running_out.any? ? "#{running_out.size} products last less than #{below} days" : nil].compact
    { net_revenue_cents: told["net_revenue_cents"], best_month: month, top_category: category,
      most_valuable_tier: tier, running_out: running_out, headlines: headlines }
  end

  class << self
    private

    # A line of the sales file. Only the month of its date is used.
    def sale(row)
      count = Integer(row["quantity"], 10)
      raise ArgumentError, "the quantity is none" if count.zero? || !Files::QUANTITIES.cover?(count.abs)

      { month: Date.iso8601(row["date"]).strftime("%Y-%m"), customer_id: row["customer_id"], sku: row["sku"],
        quantity: count, unit_price_cents: Files.cents(row["unit_price"]) }
    end

    def revenue(rows)
      rows.sum { |row| row["unit_price_cents"] * row["quantity"] }
    end

    def revenues(rows, key)
      rows.group_by { |row| row[key] }.transform_values { |each| revenue(each) }
    end

    # Amounts by what each name belongs to.
    def joined(amounts, belongs_to, what)
      amounts.sort.each_with_object(Hash.new(0)) do |(name, amount), sums|
        owner = belongs_to.fetch(name) do
          why = "sales name #{format(what, name)} does not have"
          raise TaskerCore::ValidationError.new(why, error_code: "SOURCES_DO_NOT_FIT")
        end
        sums[owner] += amount
      end
    end

    # What was only returned, or never sold, lasts for ever: it has no number of days.
    def cover_days(sold, stock, period_days)
      sold.select { |_, sku| sku["units"].positive? }.to_h do |sku, of_sku|
        [sku, stock[sku]["on_hand"] * period_days / of_sku["units"]]
      end
    end

    # The name of the largest amount, the first by name where several are equal; nil where there is none.
    def largest(amounts)
      amounts.min_by { |name, amount| [-amount, name] }&.first
    end
  end
end
