//! The shipped data files are generated: this file holds the generator and compares.
//!
//! After a change here, write the files anew with
//! `cargo test -p tasker-examples --test data -- --ignored`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

const SEED: u64 = 0x0007_A5CE_5EED;
const PRODUCTS: u64 = 1_000;
const SALES: u64 = 360;
const CUSTOMERS: u64 = 60;
const STOCKED: u64 = 40;

#[test]
fn the_shipped_files_are_what_the_generator_writes() {
    for (name, expected) in generated() {
        let shipped = std::fs::read_to_string(data_folder().join(name)).unwrap();
        let differing = shipped.lines().zip(expected.lines()).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{name}: first differing line, counted from 0");
        assert_eq!(shipped, expected, "{name}");
    }
}

#[test]
#[ignore = "writes into the source tree: run by hand after a change of the generator"]
fn write_the_data_files() {
    for (name, text) in generated() {
        std::fs::write(data_folder().join(name), text).unwrap();
    }
}

fn data_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn generated() -> [(&'static str, String); 4] {
    [("products.csv", products()), ("sales.csv", sales()), ("customers.json", customers()), ("stock.csv", stock())]
}

const CATEGORIES: [&str; 8] = ["books", "cookware", "desks", "garden", "lighting", "shelves", "stationery", "tools"];
const ADJECTIVES: [&str; 8] = ["Alder", "Birch", "Copper", "Dune", "Ember", "Fjord", "Granite", "Harbour"];
const NOUNS: [&str; 10] = ["Lamp", "Notebook", "Pan", "Planter", "Plane", "Rack", "Stool", "Table", "Tray", "Vase"];
const SIZES: [&str; 4] = ["", ", small", ", large", ", \"classic\""];
const SUPPLIERS: [&str; 5] = ["Aarhus Works", "Brno Mills", "Cork Trading", "Delft Goods", "Evora SA"];

fn products() -> String {
    let mut random = Random(SEED);
    let mut text = "sku,name,category,price,stock,reorder_level,weight_grams,supplier\n".to_owned();
    for number in 1..=PRODUCTS {
        let name = format!("{} {}{}", random.pick(&ADJECTIVES), random.pick(&NOUNS), random.pick(&SIZES));
        let price = random.between(199, 24_999);
        writeln!(
            text,
            "P-{number:04},{},{},{}.{:02},{},{},{},{}",
            quoted(&name),
            random.pick(&CATEGORIES),
            price / 100,
            price % 100,
            random.between(0, 250),
            random.between(5, 40),
            random.between(40, 12_000),
            random.pick(&SUPPLIERS),
        )
        .unwrap();
    }
    text
}

/// One row in nine is a return: its quantity is negative.
fn sales() -> String {
    let mut random = Random(SEED ^ 1);
    let mut text = "date,order_id,customer_id,sku,quantity,unit_price\n".to_owned();
    for number in 0..SALES {
        let month = 1 + number * 6 / SALES;
        let quantity = random.between(1, 9);
        let sign = if random.between(0, 8) == 0 { "-" } else { "" };
        let price = random.between(450, 18_000);
        writeln!(
            text,
            "2025-{month:02}-{:02},S-{:05},C-{:03},P-{:04},{sign}{quantity},{}.{:02}",
            random.between(1, 28),
            number + 1,
            random.between(1, CUSTOMERS),
            random.between(1, STOCKED),
            price / 100,
            price % 100,
        )
        .unwrap();
    }
    text
}

const TIERS: [&str; 3] = ["bronze", "silver", "gold"];
const COUNTRIES: [&str; 5] = ["AT", "DE", "FR", "NL", "PL"];
const GIVEN: [&str; 6] = ["Ada", "Bela", "Cleo", "Dina", "Emil", "Finn"];
const FAMILY: [&str; 7] = ["Arendt", "Brandt", "Costa", "Dumas", "Eriks", "Fuchs", "Goran"];

fn customers() -> String {
    let mut random = Random(SEED ^ 2);
    let list: Vec<_> = (1..=CUSTOMERS)
        .map(|number| {
            json!({
                "customer_id": format!("C-{number:03}"),
                "name": format!("{} {}", random.pick(&GIVEN), random.pick(&FAMILY)),
                "country": random.pick(&COUNTRIES),
                "tier": random.pick(&TIERS),
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&list).unwrap();
    text.push('\n');
    text
}

/// Two warehouses hold the forty products that the sales file sells.
fn stock() -> String {
    let mut random = Random(SEED ^ 3);
    let mut text = "sku,category,warehouse,on_hand\n".to_owned();
    for number in 1..=STOCKED {
        let category = random.pick(&CATEGORIES);
        for warehouse in ["east", "west"] {
            let on_hand = random.between(0, 60);
            writeln!(text, "P-{number:04},{category},{warehouse},{on_hand}").unwrap();
        }
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// SplitMix64 (Steele, Lea, Flood 2014): fixed here so that no crate's update changes the files.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Both ends included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        let index = self.next() % list.len() as u64;
        list[usize::try_from(index).unwrap()]
    }
}
