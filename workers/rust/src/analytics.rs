//! An analytics pipeline: three extracts → three transforms → aggregate → insights.
//!
//! The extracts read files (CSV and JSON) into checked rows, the transforms reduce each source on its own, the
//! aggregate joins the three, and the insights say what a person would look for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::csv::{self, CsvError};
use crate::files;
use crate::money::{Cents, QUANTITY_LIMIT};

const SALES_HEADER: &[&str] = &["date", "order_id", "customer_id", "sku", "quantity", "unit_price"];
const STOCK_HEADER: &[&str] = &["sku", "category", "warehouse", "on_hand"];

#[derive(Deserialize)]
struct Input {
    sales_file: String,
    customers_file: String,
    stock_file: String,
    period_days: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Extract<T> {
    rows: Vec<T>,
}

/// A negative quantity is a return.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sale {
    month: String,
    customer_id: String,
    sku: String,
    quantity: i64,
    unit_price_cents: Cents,
}

#[derive(Debug, Serialize, Deserialize)]
struct Customer {
    customer_id: String,
    name: String,
    country: String,
    tier: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stock {
    sku: String,
    category: String,
    on_hand: i64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sales {
    sold_cents: Cents,
    returned_cents: Cents,
    by_month: BTreeMap<String, Cents>,
    by_customer: BTreeMap<String, Cents>,
    by_sku: BTreeMap<String, SkuSales>,
}

/// Net of returns.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct SkuSales {
    units: i64,
    revenue_cents: Cents,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Customers {
    tier_of: BTreeMap<String, String>,
    by_tier: BTreeMap<String, i64>,
    by_country: BTreeMap<String, i64>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Inventory {
    by_sku: BTreeMap<String, SkuStock>,
    units: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SkuStock {
    category: String,
    on_hand: i64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Aggregate {
    net_revenue_cents: Cents,
    revenue_by_month: BTreeMap<String, Cents>,
    revenue_by_category: BTreeMap<String, Cents>,
    revenue_by_tier: BTreeMap<String, Cents>,
    revenue_per_customer_by_tier: BTreeMap<String, Cents>,
    cover_days_by_sku: BTreeMap<String, i64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Insights {
    net_revenue_cents: Cents,
    best_month: Option<String>,
    top_category: Option<String>,
    most_valuable_tier: Option<String>,
    running_out: Vec<String>,
    headlines: Vec<String>,
}

/// The sources do not fit each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum JoinError {
    #[error("sales name customer {0}, whom the customer file does not have")]
    UnknownCustomer(String),
    #[error("sales name product {0}, which the stock file does not have")]
    UnknownProduct(String),
}

impl From<JoinError> for StepError {
    fn from(error: JoinError) -> Self {
        Self::permanent(error.to_string()).with_class("validation_error").with_code("SOURCES_DO_NOT_FIT")
    }
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("analytics.ExtractSales", extract_sales);
    registry.register_fn("analytics.ExtractCustomers", extract_customers);
    registry.register_fn("analytics.ExtractStock", extract_stock);
    registry.register_fn("analytics.TransformSales", transform_sales);
    registry.register_fn("analytics.TransformCustomers", transform_customers);
    registry.register_fn("analytics.TransformStock", transform_stock);
    registry.register_fn("analytics.Aggregate", aggregate);
    registry.register_fn("analytics.Insights", insights);
}

async fn extract_sales(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let rows = files::read_csv(&input.sales_file, sales_rows).await?;
    StepOutcome::success(Extract { rows })
}

async fn extract_customers(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let rows: Vec<Customer> = files::read_json(&input.customers_file).await?;
    StepOutcome::success(Extract { rows })
}

async fn extract_stock(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let rows = files::read_csv(&input.stock_file, stock_rows).await?;
    StepOutcome::success(Extract { rows })
}

async fn transform_sales(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let extract: Extract<Sale> = ctx.dependency("extract_sales")?;
    StepOutcome::success(sales(extract.rows))
}

async fn transform_customers(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let extract: Extract<Customer> = ctx.dependency("extract_customers")?;
    StepOutcome::success(customers(extract.rows))
}

async fn transform_stock(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let extract: Extract<Stock> = ctx.dependency("extract_stock")?;
    StepOutcome::success(inventory(extract.rows))
}

async fn aggregate(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let sales: Sales = ctx.dependency("transform_sales")?;
    let customers: Customers = ctx.dependency("transform_customers")?;
    let inventory: Inventory = ctx.dependency("transform_stock")?;
    StepOutcome::success(aggregated(sales, &customers, &inventory, input.period_days)?)
}

async fn insights(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let aggregate: Aggregate = ctx.dependency("aggregate")?;
    let cover_days_below: u32 = ctx.get_config("cover_days_below")?;
    StepOutcome::success(told(&aggregate, cover_days_below))
}

fn sales_rows(text: &str) -> Result<Vec<Sale>, CsvError> {
    let sale = |row: csv::Row| {
        let quantity: i64 = row.value("quantity")?;
        if quantity == 0 || quantity.abs() > QUANTITY_LIMIT {
            return Err(row.refuse("quantity"));
        }
        Ok(Sale {
            month: month(row.text("date")?).ok_or_else(|| row.refuse("date"))?.to_owned(),
            customer_id: row.text("customer_id")?.to_owned(),
            sku: row.text("sku")?.to_owned(),
            quantity,
            unit_price_cents: row.value("unit_price")?,
        })
    };
    csv::rows(text, SALES_HEADER)?.into_iter().map(sale).collect()
}

/// `2025-03` of `2025-03-14`. Only the month is used, so the day is checked for its range alone.
fn month(date: &str) -> Option<&str> {
    let (month, day) = date.split_at_checked(7)?;
    let (year, number) = month.split_once('-')?;
    let within = |text: &str, digits: usize, high: u32| {
        let all_digits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        all_digits && text.parse().is_ok_and(|value: u32| (1..=high).contains(&value))
    };
    let valid = within(year, 4, 9_999) && within(number, 2, 12) && within(day.strip_prefix('-')?, 2, 31);
    valid.then_some(month)
}

fn stock_rows(text: &str) -> Result<Vec<Stock>, CsvError> {
    let stock = |row: csv::Row| {
        let on_hand: i64 = row.value("on_hand")?;
        if !(0..=QUANTITY_LIMIT).contains(&on_hand) {
            return Err(row.refuse("on_hand"));
        }
        let (sku, category) = (row.text("sku")?.to_owned(), row.text("category")?.to_owned());
        Ok(Stock { sku, category, on_hand })
    };
    csv::rows(text, STOCK_HEADER)?.into_iter().map(stock).collect()
}

fn sales(rows: Vec<Sale>) -> Sales {
    let mut sales = Sales::default();
    for row in rows {
        let amount = row.unit_price_cents.times(row.quantity);
        if row.quantity > 0 {
            sales.sold_cents += amount;
        } else {
            sales.returned_cents += amount;
        }
        *sales.by_month.entry(row.month).or_default() += amount;
        *sales.by_customer.entry(row.customer_id).or_default() += amount;
        let sku = sales.by_sku.entry(row.sku).or_default();
        sku.units += row.quantity;
        sku.revenue_cents += amount;
    }
    sales
}

fn customers(rows: Vec<Customer>) -> Customers {
    let mut customers = Customers::default();
    for row in rows {
        *customers.by_tier.entry(row.tier.clone()).or_default() += 1;
        *customers.by_country.entry(row.country).or_default() += 1;
        customers.tier_of.insert(row.customer_id, row.tier);
    }
    customers
}

/// One entry per product: what its warehouses hold together.
fn inventory(rows: Vec<Stock>) -> Inventory {
    let mut inventory = Inventory::default();
    for row in rows {
        inventory.units += row.on_hand;
        let fresh = SkuStock { category: row.category, on_hand: 0 };
        inventory.by_sku.entry(row.sku).or_insert(fresh).on_hand += row.on_hand;
    }
    inventory
}

fn aggregated(
    sales: Sales,
    customers: &Customers,
    inventory: &Inventory,
    period_days: u32,
) -> Result<Aggregate, JoinError> {
    let mut aggregate = Aggregate {
        net_revenue_cents: sales.sold_cents + sales.returned_cents,
        revenue_by_month: sales.by_month,
        ..Aggregate::default()
    };
    for (customer_id, revenue) in sales.by_customer {
        let Some(tier) = customers.tier_of.get(&customer_id) else {
            return Err(JoinError::UnknownCustomer(customer_id));
        };
        *aggregate.revenue_by_tier.entry(tier.clone()).or_default() += revenue;
    }
    for (tier, count) in &customers.by_tier {
        let revenue = aggregate.revenue_by_tier.get(tier).copied().unwrap_or_default();
        aggregate.revenue_per_customer_by_tier.insert(tier.clone(), Cents(revenue.0 / count));
    }
    for (sku, sold) in sales.by_sku {
        let Some(stock) = inventory.by_sku.get(&sku) else {
            return Err(JoinError::UnknownProduct(sku));
        };
        *aggregate.revenue_by_category.entry(stock.category.clone()).or_default() += sold.revenue_cents;
        // What was only returned, or never sold, lasts for ever: it has no number of days.
        if sold.units > 0 {
            let days = stock.on_hand * i64::from(period_days) / sold.units;
            aggregate.cover_days_by_sku.insert(sku, days);
        }
    }
    Ok(aggregate)
}

fn told(aggregate: &Aggregate, cover_days_below: u32) -> Insights {
    let best_month = largest(&aggregate.revenue_by_month);
    let top_category = largest(&aggregate.revenue_by_category);
    let most_valuable_tier = largest(&aggregate.revenue_per_customer_by_tier);
    let covers = &aggregate.cover_days_by_sku;
    let short = covers.iter().filter(|(_, days)| **days < i64::from(cover_days_below));
    let running_out: Vec<String> = short.map(|(sku, _)| sku.clone()).collect();
    let mut headlines = Vec::new();
    headlines.extend(best_month.as_ref().map(|month| format!("{month} was the best month")));
    headlines.extend(top_category.as_ref().map(|name| format!("{name} is the top category")));
    headlines.extend(most_valuable_tier.as_ref().map(|tier| format!("{tier} customers spend the most each")));
    if !running_out.is_empty() {
        headlines.push(format!("{} products last less than {cover_days_below} days", running_out.len()));
    }
    Insights {
        net_revenue_cents: aggregate.net_revenue_cents,
        best_month,
        top_category,
        most_valuable_tier,
        running_out,
        headlines,
    }
}

/// The first by name, where several are equal.
fn largest(amounts: &BTreeMap<String, Cents>) -> Option<String> {
    let first_of_largest = amounts.iter().rev().max_by_key(|(_, amount)| **amount);
    first_of_largest.map(|(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn dates_that_are_none_are_refused() {
        assert_eq!(month("2025-03-14"), Some("2025-03"));
        for wrong in ["", "2025-3-14", "2025-13-01", "2025-00-01", "2025-01-32", "14.03.2025", "2025-03-1é"] {
            assert_eq!(month(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn returns_lower_the_revenue() {
        let text = "date,order_id,customer_id,sku,quantity,unit_price\n\
                    2025-01-02,S-1,C-1,P-1,3,10.00\n2025-01-09,S-2,C-1,P-1,-1,10.00\n";
        let sales = sales(sales_rows(text).unwrap());
        assert_eq!((sales.sold_cents, sales.returned_cents), (Cents(3_000), Cents(-1_000)));
        assert_eq!(sales.by_sku["P-1"], SkuSales { units: 2, revenue_cents: Cents(2_000) });
        assert_eq!(sales.by_month["2025-01"], Cents(2_000));
    }

    fn small(sku: &str, customer_id: &str) -> (Sales, Customers, Inventory) {
        let sale = |sku: &str, customer_id: &str, quantity| Sale {
            month: "2025-01".to_owned(),
            customer_id: customer_id.to_owned(),
            sku: sku.to_owned(),
            quantity,
            unit_price_cents: Cents(500),
        };
        let customer = |id: &str, tier: &str| Customer {
            customer_id: id.to_owned(),
            name: "Ada".to_owned(),
            country: "DE".to_owned(),
            tier: tier.to_owned(),
        };
        let stock = |sku: &str, on_hand| Stock { sku: sku.to_owned(), category: "desks".to_owned(), on_hand };
        (
            sales(vec![sale(sku, "C-1", 10), sale("P-2", customer_id, -1)]),
            customers(vec![customer("C-1", "gold"), customer("C-2", "gold"), customer("C-3", "silver")]),
            inventory(vec![stock("P-1", 2), stock("P-1", 3), stock("P-2", 9)]),
        )
    }

    #[test]
    fn the_join_spreads_revenue_and_counts_days_of_cover() {
        let (sales, customers, inventory) = small("P-1", "C-2");
        let aggregate = aggregated(sales, &customers, &inventory, 30).unwrap();
        assert_eq!(aggregate.net_revenue_cents, Cents(4_500));
        assert_eq!(aggregate.revenue_per_customer_by_tier["gold"], Cents(2_250));
        assert_eq!(aggregate.revenue_per_customer_by_tier["silver"], Cents(0));
        assert_eq!(aggregate.cover_days_by_sku, BTreeMap::from([("P-1".to_owned(), 15)]));
        assert_eq!(told(&aggregate, 15).running_out, [""; 0]);
        assert_eq!(told(&aggregate, 16).running_out, ["P-1"]);
    }

    #[test]
    fn sales_of_strangers_are_refused() {
        let (sales, customers, inventory) = small("P-1", "C-9");
        let error = aggregated(sales, &customers, &inventory, 30).unwrap_err();
        assert_eq!(error, JoinError::UnknownCustomer("C-9".to_owned()));
        let (sales, customers, inventory) = small("P-9", "C-1");
        let error = aggregated(sales, &customers, &inventory, 30).unwrap_err();
        assert_eq!(error, JoinError::UnknownProduct("P-9".to_owned()));
    }

    #[test]
    fn of_equal_amounts_the_first_name_is_the_largest() {
        let amounts = [("b", 2), ("a", 2), ("c", 1)];
        let amounts = amounts.map(|(name, amount)| (name.to_owned(), Cents(amount))).into();
        assert_eq!(largest(&amounts).as_deref(), Some("a"));
        assert_eq!(largest(&BTreeMap::new()), None);
    }
}
