//! The demonstrations: one input for each template and a check of what comes out.
//!
//! The checks compute the expected result again from the shipped files, by plainer code than the handlers' and
//! sharing none of it: an error in a handler can't hide in its own check.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A template, the context to start it with, and what its final step must return.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Demo {
    /// The namespace of the template.
    pub namespace: &'static str,
    /// The name of the template.
    pub template: &'static str,
    /// The version of the template.
    pub version: &'static str,
    /// One line on what it shows.
    pub about: &'static str,
    /// The context of the task.
    pub context: Value,
    /// The step whose result is the task's result.
    pub final_step: &'static str,
    /// Checks the final step's result; the text says in a few words what came out.
    pub expect: fn(&Value) -> Result<String, Mismatch>,
}

/// A result that is not what the input gives.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{field}` is {found}, expected {expected}")]
pub struct Mismatch {
    /// The field of the result.
    pub field: &'static str,
    /// What it had to be.
    pub expected: Value,
    /// What it is; null if it is not there.
    pub found: Value,
}

/// The number that the four arithmetic examples start from.
const NUMBER: i64 = 6;
const PERIOD_DAYS: i64 = 181;

/// All demonstrations. `data_folder` is where [`crate::write_data`] wrote the files: an absolute path, for the
/// worker may run in another folder than the one who submits the task.
#[must_use]
pub fn demos(data_folder: &str) -> Vec<Demo> {
    let file = |name: &str| format!("{}/{name}", data_folder.trim_end_matches('/'));
    let mut demos = arithmetic().to_vec();
    demos.push(Demo {
        namespace: "shop",
        template: "order_fulfillment",
        version: "1.0.0",
        about: "an order is validated, reserved, charged at the third attempt, shipped",
        context: json!({"order_file": file("order.json"), "products_file": file("products.csv")}),
        final_step: "ship",
        expect: expect_shipment,
    });
    demos.push(Demo {
        namespace: "shop",
        template: "product_inventory",
        version: "1.0.0",
        about: "a catalogue of 1,000 products in four lanes, joined into a report",
        context: json!({"products_file": file("products.csv")}),
        final_step: "report",
        expect: expect_inventory,
    });
    demos.push(Demo {
        namespace: "analytics",
        template: "analytics_pipeline",
        version: "1.0.0",
        about: "three extracts, three transforms, an aggregate, insights",
        context: json!({
            "sales_file": file("sales.csv"),
            "customers_file": file("customers.json"),
            "stock_file": file("stock.csv"),
            "period_days": PERIOD_DAYS,
        }),
        final_step: "insights",
        expect: expect_insights,
    });
    demos.push(Demo {
        namespace: "finance",
        template: "expense_approval",
        version: "1.0.0",
        about: "a decision asks a manager and finance; the third way is not created",
        context: json!({"amount_cents": 612_000, "purpose": "Travel to the trade fair"}),
        final_step: "pay",
        expect: |result| {
            same(result, "paid_cents", 612_000)?;
            same(result, "approved_by", json!(["finance", "manager"]))?;
            Ok("paid, approved by finance and a manager".to_owned())
        },
    });
    demos.push(Demo {
        namespace: "shop",
        template: "catalogue_import",
        version: "1.0.0",
        about: "1,000 products in five batches of 200, at most three at once",
        context: json!({"products_file": file("products.csv")}),
        final_step: "totals",
        expect: expect_import,
    });
    demos.extend(smaller(&file("products.csv")));
    demos.push(account_transfer());
    demos
}

fn smaller(products_file: &str) -> [Demo; 4] {
    let demo = |namespace, template, about, context, final_step, expect| Demo {
        namespace,
        template,
        version: "1.0.0",
        about,
        context,
        final_step,
        expect,
    };
    let registered = json!({"email": "Ada@Example.org", "plan": "pro"});
    [
        demo(
            "shop",
            "checkpoint_resume",
            "1,000 products valued in strides of 100; an attempt that breaks off is taken up again",
            json!({"products_file": products_file, "fail_at": 400}),
            "value_stock",
            expect_valued,
        ),
        demo(
            "examples",
            "error_scenarios",
            "a call that is away twice and then comes through",
            json!({"scenario": "flaky"}),
            "tell",
            |result| same(result, "told", "flaky: came through at attempt 3").map(|_| "came through".to_owned()),
        ),
        demo(
            "shop",
            "domain_events",
            "an order that is placed and paid, with an event for each",
            json!({"order_id": "O-1001", "amount_cents": 4_990}),
            "pay",
            |result| {
                same(result, "order_id", "O-1001")?;
                same(result, "paid_cents", 4_990).map(|_| format!("paid {}, and others were told", euros(4_990)))
            },
        ),
        demo(
            "accounts",
            "user_registration",
            "a user is made known to four services",
            registered,
            "activate",
            |result| {
                same(result, "user_id", "user:ada@example.org")?;
                same(result, "welcomed", "ada@example.org")?;
                same(result, "price_cents", 1_900)?;
                same(result, "status", "active").map(|_| "ada@example.org is active".to_owned())
            },
        ),
    ]
}

fn expect_valued(result: &Value) -> Result<String, Mismatch> {
    let (mut units, mut value) = (0, 0);
    for product in product_columns() {
        units += product.stock;
        value += product.cents * product.stock;
    }
    same(result, "products", product_columns().count())?;
    same(result, "units", units)?;
    same(result, "stock_value_cents", value)?;
    same(result, "began_at", json!([0, 400]))?;
    Ok(format!("{} worth {}, resumed at row 400", units, euros(value)))
}

/// The demonstration of [`crate::polyglot`].
#[must_use]
pub fn polyglot_demo() -> Demo {
    Demo {
        namespace: "polyglot",
        template: "polyglot",
        version: "1.0.0",
        about: "one task whose steps run in Rust, Python, Ruby and TypeScript",
        context: json!({"text": "the quick brown fox jumps over the lazy dog"}),
        final_step: "summary",
        expect: |result| {
            same(result, "languages", json!(["rust", "python", "ruby", "typescript", "python"]))?;
            let found = "35 letters in 9 words, the longest is quick: The Quick Brown Fox Jumps Over The Lazy Dog";
            same(result, "text", found).map(|_| "35 letters in 9 words, in four languages".to_owned())
        },
    }
}

fn account_transfer() -> Demo {
    Demo {
        namespace: "bank",
        template: "account_transfer",
        version: "1.0.0",
        about: "two postings, each committed together with its step's completion",
        context: json!({"from": "alice", "to": "bob", "amount_cents": 12_345}),
        final_step: "prove",
        expect: |result| {
            same(result, "entries", 2)?;
            same(result, "sum_cents", 0)?;
            same(result, "paid_cents", 12_345)?;
            Ok(format!("{} from alice to bob, two entries that cancel each other out", euros(12_345)))
        },
    }
}

fn arithmetic() -> [Demo; 4] {
    let demo = |template, about, final_step, expect| Demo {
        namespace: "examples",
        template,
        version: "1.0.0",
        about,
        context: json!({"number": NUMBER}),
        final_step,
        expect,
    };
    [
        demo("linear", "four steps in a row", "square", |result| {
            same(result, "value", (2 * NUMBER + 7).pow(2)).map(said)
        }),
        demo("diamond", "two branches that meet", "sum", |result| {
            same(result, "value", 2 * NUMBER + NUMBER.pow(2)).map(said)
        }),
        demo("tree8", "two branches, four leaves, one sum", "sum", |result| {
            let leaves = [2 * NUMBER + 1, 2 * NUMBER + 2, 3 * NUMBER + 3, 3 * NUMBER + 4];
            same(result, "value", leaves.iter().sum::<i64>()).map(said)
        }),
        demo("dag7", "branches that meet partly and then all", "sum", |result| {
            let (double, triple) = (2 * NUMBER, 3 * NUMBER);
            same(result, "value", double * triple + (double + 5) + triple.pow(2)).map(said)
        }),
    ]
}

fn said(value: Value) -> String {
    format!("value {value}")
}

/// The field's value, if it is the expected one.
fn same(result: &Value, field: &'static str, expected: impl Into<Value>) -> Result<Value, Mismatch> {
    let (found, expected) = (result.get(field).cloned().unwrap_or_default(), expected.into());
    if found == expected { Ok(found) } else { Err(Mismatch { field, expected, found }) }
}

fn expect_shipment(result: &Value) -> Result<String, Mismatch> {
    let order: Value = serde_json::from_str(crate::ORDER).expect("the shipped order is JSON");
    let (mut net, mut grams) = (0, 0);
    for line in order["lines"].as_array().expect("the shipped order has lines") {
        let sku = line["sku"].as_str().expect("a line of the shipped order has a SKU");
        let quantity = line["quantity"].as_i64().expect("a line of the shipped order has a quantity");
        let product = product_columns().find(|columns| columns.sku == sku).expect("the catalogue has it");
        net += product.cents * quantity;
        grams += product.grams * quantity;
    }
    let charged = net + (net * 19 + 50) / 100;
    let parcels = (grams + 19_999) / 20_000;
    let id = order["order_id"].as_str().expect("the shipped order has an id");
    let tracking: Vec<String> = (1..=parcels).map(|n| format!("{id}-{n}")).collect();
    same(result, "order_id", id)?;
    same(result, "status", "shipped")?;
    same(result, "charged_cents", charged)?;
    same(result, "weight_grams", grams)?;
    same(result, "tracking_numbers", tracking)?;
    same(result, "charge_attempts", 3)?;
    Ok(format!("{id} shipped in {parcels} parcels, {} charged at attempt 3", euros(charged)))
}

fn expect_inventory(result: &Value) -> Result<String, Mismatch> {
    let (mut units, mut value, mut count) = (0, 0, 0);
    let mut shortages = Vec::new();
    let mut categories: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for product in product_columns() {
        count += 1;
        units += product.stock;
        value += product.cents * product.stock;
        let category = categories.entry(product.category).or_default();
        *category = (category.0 + 1, category.1 + product.stock, category.2 + product.cents * product.stock);
        if product.stock < product.reorder_level {
            shortages.push((product.stock - product.reorder_level, product));
        }
    }
    shortages.sort_by_key(|(missing, product)| (*missing, product.sku));
    let reorder: Vec<Value> = (shortages.iter().take(10))
        .map(|(_, p)| json!({"sku": p.sku, "stock": p.stock, "reorder_level": p.reorder_level}))
        .collect();
    let categories: serde_json::Map<String, Value> = (categories.into_iter())
        .map(|(name, (products, units, value))| {
            let entry = json!({"products": products, "units": units, "stock_value_cents": value});
            (name.to_owned(), entry)
        })
        .collect();
    same(result, "products", count)?;
    same(result, "units", units)?;
    same(result, "stock_value_cents", value)?;
    same(result, "reorder_count", shortages.len())?;
    same(result, "reorder", reorder)?;
    same(result, "categories", categories)?;
    Ok(format!("{count} products worth {}, {} to reorder", euros(value), shortages.len()))
}

fn expect_import(result: &Value) -> Result<String, Mismatch> {
    let (mut count, mut units, mut value) = (0, 0, 0);
    for product in product_columns() {
        count += 1;
        units += product.stock;
        value += product.cents * product.stock;
    }
    same(result, "batches", 5)?;
    same(result, "products", count)?;
    same(result, "units", units)?;
    same(result, "stock_value_cents", value)?;
    Ok(format!("{count} products worth {} in 5 batches", euros(value)))
}

fn expect_insights(result: &Value) -> Result<String, Mismatch> {
    let customers: Vec<Value> = serde_json::from_str(crate::CUSTOMERS).expect("the shipped file is JSON");
    let tier_of: BTreeMap<&str, &str> =
        customers.iter().filter_map(|c| Some((c["customer_id"].as_str()?, c["tier"].as_str()?))).collect();
    let mut stock: BTreeMap<&str, (&str, i64)> = BTreeMap::new();
    for columns in lines(crate::STOCK) {
        stock.entry(columns[0]).or_insert((columns[1], 0)).1 += whole(columns[3]);
    }
    let mut net = 0;
    let (mut months, mut categories, mut tiers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut sold: BTreeMap<&str, i64> = BTreeMap::new();
    for columns in lines(crate::SALES) {
        let amount = whole(columns[4]) * whole(&columns[5].replace('.', ""));
        net += amount;
        *months.entry(&columns[0][..7]).or_insert(0) += amount;
        *categories.entry(stock[columns[3]].0).or_insert(0) += amount;
        *tiers.entry(tier_of[columns[2]]).or_insert(0) += amount;
        *sold.entry(columns[3]).or_insert(0) += whole(columns[4]);
    }
    for (tier, revenue) in &mut tiers {
        let members = tier_of.values().filter(|other| *other == tier).count();
        *revenue /= i64::try_from(members).expect("a file has fewer lines than 2^63");
    }
    sold.retain(|sku, units| *units > 0 && stock[sku].1 * PERIOD_DAYS / *units < 60);
    let running_out: Vec<&str> = sold.into_keys().collect();
    let (month, category) = (top(&months), top(&categories));
    same(result, "net_revenue_cents", net)?;
    same(result, "best_month", month)?;
    same(result, "top_category", category)?;
    same(result, "most_valuable_tier", top(&tiers))?;
    same(result, "running_out", running_out.clone())?;
    let ending = running_out.len();
    Ok(format!("{} net, best month {month}, top category {category}, {ending} running out", euros(net)))
}

struct ProductColumns<'a> {
    sku: &'a str,
    category: &'a str,
    cents: i64,
    stock: i64,
    reorder_level: i64,
    grams: i64,
}

/// Only the name is ever quoted, so the six columns behind it can be cut off from the right.
fn product_columns() -> impl Iterator<Item = ProductColumns<'static>> {
    crate::PRODUCTS.lines().skip(1).map(|line| {
        let right: Vec<&str> = line.rsplitn(7, ',').collect();
        ProductColumns {
            sku: &line[..6],
            category: right[5],
            cents: whole(&right[4].replace('.', "")),
            stock: whole(right[3]),
            reorder_level: whole(right[2]),
            grams: whole(right[1]),
        }
    })
}

fn lines(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().skip(1).map(|line| line.split(',').collect())
}

fn whole(text: &str) -> i64 {
    text.parse().expect("the shipped files hold numbers there")
}

fn top<'a>(amounts: &BTreeMap<&'a str, i64>) -> &'a str {
    let mut top = ("", i64::MIN);
    for (name, amount) in amounts {
        if *amount > top.1 {
            top = (name, *amount);
        }
    }
    top.0
}

fn euros(cents: i64) -> String {
    format!("{}.{:02} EUR", cents / 100, cents % 100)
}
