//! Order fulfilment: validate → reserve → charge → ship, on an order file and the product catalogue.
//!
//! The card network is simulated and times out twice, so that the retries of `charge` can be watched.
//! Nothing is written anywhere: the reservation and the charge exist in the steps' results only.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::catalogue::{self, Product};
use crate::files;
use crate::money::Cents;

const LINES_LIMIT: usize = 200;
const QUANTITY_PER_LINE_LIMIT: i64 = 100;

#[derive(Deserialize)]
struct Input {
    order_file: String,
    products_file: String,
}

/// The order as its file has it, and as `validate` passes it on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    order_id: String,
    customer: Customer,
    shipping_address: Address,
    payment: Payment,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Customer {
    name: String,
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    street: String,
    postal_code: String,
    city: String,
    country: String,
}

/// The token stands for a card at the payment provider; no card number ever gets here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payment {
    method: String,
    token: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sku: String,
    quantity: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reservation {
    reservation_id: String,
    lines: Vec<ReservedLine>,
    subtotal_cents: Cents,
    weight_grams: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ReservedLine {
    sku: String,
    name: String,
    quantity: i64,
    unit_price_cents: Cents,
    total_cents: Cents,
}

#[derive(Debug, Serialize, Deserialize)]
struct Charge {
    charge_id: String,
    currency: String,
    tax_cents: Cents,
    amount_cents: Cents,
    attempts: u32,
}

#[derive(Debug, PartialEq, Serialize)]
struct Shipment {
    order_id: String,
    status: &'static str,
    carrier: &'static str,
    tracking_numbers: Vec<String>,
    weight_grams: i64,
    charged_cents: Cents,
    currency: String,
    charge_attempts: u32,
}

/// What makes an order impossible to fulfil. Each lists all it found, so that one correction is enough.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum OrderError {
    #[error("the order is not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
    #[error("the catalogue has no product {}", .0.join(", "))]
    UnknownProducts(Vec<String>),
    #[error("not enough in stock: {}", .0.join("; "))]
    OutOfStock(Vec<String>),
}

impl From<OrderError> for StepError {
    fn from(error: OrderError) -> Self {
        let (class, code) = match error {
            OrderError::Invalid(_) => ("validation_error", "ORDER_INVALID"),
            OrderError::UnknownProducts(_) => ("validation_error", "PRODUCT_UNKNOWN"),
            OrderError::OutOfStock(_) => ("permanent_error", "OUT_OF_STOCK"),
        };
        Self::permanent(error.to_string()).with_class(class).with_code(code)
    }
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("orders.Validate", validate);
    registry.register_fn("orders.Reserve", reserve);
    registry.register_fn("orders.Charge", charge);
    registry.register_fn("orders.Ship", ship);
}

async fn validate(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let order: Order = files::read_json(&input.order_file).await?;
    check(&order)?;
    StepOutcome::success(order)
}

async fn reserve(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let order: Order = ctx.dependency("validate")?;
    let products = files::read_csv(&input.products_file, catalogue::products).await?;
    StepOutcome::success(reservation(&order, &products)?)
}

async fn charge(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let timeouts: u32 = ctx.get_config("simulated_timeouts")?;
    if ctx.attempt() <= timeouts {
        return Err(StepError::retryable("card network timeout").with_code("CARD_NETWORK_TIMEOUT"));
    }
    let reservation: Reservation = ctx.dependency("reserve")?;
    let tax_cents = reservation.subtotal_cents.percent(ctx.get_config("vat_percent")?);
    StepOutcome::success(Charge {
        // The same on every attempt: a real provider recognises a repeated request by it.
        charge_id: format!("charge:{}", ctx.idempotency_key()),
        currency: ctx.get_config("currency")?,
        tax_cents,
        amount_cents: reservation.subtotal_cents + tax_cents,
        attempts: ctx.attempt(),
    })
}

async fn ship(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let order: Order = ctx.dependency("validate")?;
    let reservation: Reservation = ctx.dependency("reserve")?;
    let charge: Charge = ctx.dependency("charge")?;
    let home_country: String = ctx.get_config("home_country")?;
    let parcel_limit_grams: u32 = ctx.get_config("parcel_limit_grams")?;
    StepOutcome::success(shipment(order, &reservation, charge, &home_country, parcel_limit_grams))
}

fn check(order: &Order) -> Result<(), OrderError> {
    let mut problems = Vec::new();
    for (field, text) in [
        ("order_id", &order.order_id),
        ("customer.name", &order.customer.name),
        ("shipping_address.street", &order.shipping_address.street),
        ("shipping_address.postal_code", &order.shipping_address.postal_code),
        ("shipping_address.city", &order.shipping_address.city),
        ("payment.token", &order.payment.token),
    ] {
        if text.trim().is_empty() {
            problems.push(format!("{field} is empty"));
        }
    }
    if !is_email(&order.customer.email) {
        problems.push("customer.email is no e-mail address".to_owned());
    }
    let country = &order.shipping_address.country;
    if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()) {
        problems.push("shipping_address.country is no ISO 3166 code of two letters".to_owned());
    }
    if order.payment.method != "card" {
        problems.push("payment.method must be `card`".to_owned());
    }
    check_lines(&order.lines, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(OrderError::Invalid(problems)) }
}

fn check_lines(lines: &[Line], problems: &mut Vec<String>) {
    if lines.is_empty() || lines.len() > LINES_LIMIT {
        problems.push(format!("lines must hold 1 to {LINES_LIMIT} entries"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, line) in lines.iter().enumerate() {
        if !(1..=QUANTITY_PER_LINE_LIMIT).contains(&line.quantity) {
            problems.push(format!("lines[{index}].quantity must be 1 to {QUANTITY_PER_LINE_LIMIT}"));
        }
        if !seen.insert(&line.sku) {
            problems.push(format!("lines[{index}].sku comes twice"));
        }
    }
}

/// Whether a mail could be sent there is for the mail server to say; this finds swapped fields.
fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty() && !host.contains('@') && host.contains('.') && !text.contains(char::is_whitespace)
    })
}

fn reservation(order: &Order, products: &[Product]) -> Result<Reservation, OrderError> {
    let by_sku: HashMap<&str, &Product> = products.iter().map(|p| (p.sku.as_str(), p)).collect();
    let (mut lines, mut weight_grams) = (Vec::new(), 0);
    let (mut unknown, mut short) = (Vec::new(), Vec::new());
    for line in &order.lines {
        let Some(product) = by_sku.get(line.sku.as_str()) else {
            unknown.push(line.sku.clone());
            continue;
        };
        if product.stock < line.quantity {
            short.push(format!("{}: {} ordered, {} there", line.sku, line.quantity, product.stock));
        }
        weight_grams += product.weight_grams * line.quantity;
        lines.push(ReservedLine {
            sku: line.sku.clone(),
            name: product.name.clone(),
            quantity: line.quantity,
            unit_price_cents: product.price,
            total_cents: product.price.times(line.quantity),
        });
    }
    if !unknown.is_empty() {
        return Err(OrderError::UnknownProducts(unknown));
    }
    if !short.is_empty() {
        return Err(OrderError::OutOfStock(short));
    }
    Ok(Reservation {
        reservation_id: format!("reservation:{}", order.order_id),
        subtotal_cents: lines.iter().map(|line| line.total_cents).sum(),
        lines,
        weight_grams,
    })
}

fn shipment(
    order: Order,
    reservation: &Reservation,
    charge: Charge,
    home_country: &str,
    parcel_limit_grams: u32,
) -> Shipment {
    let limit = i64::from(parcel_limit_grams.max(1));
    let parcels = (reservation.weight_grams.max(1) + limit - 1) / limit;
    let domestic = order.shipping_address.country == home_country;
    Shipment {
        status: "shipped",
        carrier: if domestic { "domestic post" } else { "international courier" },
        tracking_numbers: (1..=parcels).map(|n| format!("{}-{n}", order.order_id)).collect(),
        weight_grams: reservation.weight_grams,
        charged_cents: charge.amount_cents,
        currency: charge.currency,
        charge_attempts: charge.attempts,
        order_id: order.order_id,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn order() -> Order {
        serde_json::from_str(include_str!("../data/order.json")).unwrap()
    }

    fn products() -> Vec<Product> {
        catalogue::products(include_str!("../data/products.csv")).unwrap()
    }

    #[test]
    fn the_shipped_order_can_be_fulfilled() {
        check(&order()).unwrap();
        let reserved = reservation(&order(), &products()).unwrap();
        assert_eq!(reserved.lines.len(), order().lines.len());
        assert!(reserved.subtotal_cents > Cents(0) && reserved.weight_grams > 0);
    }

    #[test]
    fn all_that_is_wrong_with_an_order_is_told_at_once() {
        let mut order = order();
        order.order_id = " ".to_owned();
        order.customer.email = "ada at example.org".to_owned();
        order.shipping_address.country = "de".to_owned();
        order.lines[0].quantity = 0;
        order.lines[1].sku = order.lines[0].sku.clone();
        let OrderError::Invalid(problems) = check(&order).unwrap_err() else { panic!("another kind") };
        let fields: Vec<_> = problems.iter().map(|p| p.split(' ').next().unwrap()).collect();
        assert_eq!(
            fields,
            ["order_id", "customer.email", "shipping_address.country", "lines[0].quantity", "lines[1].sku"]
        );
    }

    #[test]
    fn an_order_without_lines_is_refused() {
        let mut order = order();
        order.lines.clear();
        assert_eq!(check(&order), Err(OrderError::Invalid(vec!["lines must hold 1 to 200 entries".to_owned()])));
    }

    #[test]
    fn what_the_catalogue_cannot_give_is_refused() {
        let mut order = order();
        let mut products = products();
        let wanted = order.lines[0].clone();
        products.iter_mut().find(|p| p.sku == wanted.sku).unwrap().stock = wanted.quantity - 1;
        let error = reservation(&order, &products).unwrap_err();
        let expected = format!("{}: {} ordered, {} there", wanted.sku, wanted.quantity, wanted.quantity - 1);
        assert_eq!(error, OrderError::OutOfStock(vec![expected]));
        order.lines[0].sku = "P-none".to_owned();
        let error = reservation(&order, &products).unwrap_err();
        assert_eq!(error, OrderError::UnknownProducts(vec!["P-none".to_owned()]));
    }

    #[test]
    fn a_parcel_more_begins_above_the_limit() {
        let parcels = |weight_grams: i64| {
            let reservation = Reservation { weight_grams, ..reservation(&order(), &products()).unwrap() };
            let charge = Charge {
                charge_id: String::new(),
                currency: "EUR".to_owned(),
                tax_cents: Cents(0),
                amount_cents: Cents(1),
                attempts: 3,
            };
            shipment(order(), &reservation, charge, "DE", 20_000).tracking_numbers.len()
        };
        assert_eq!([0, 1, 20_000, 20_001, 40_001].map(parcels), [1, 1, 1, 2, 3]);
    }
}
