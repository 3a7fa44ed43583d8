//! Example workflows and their Rust handlers: arithmetic in four shapes of graphs, order fulfilment, an inventory
//! report, an analytics pipeline, an approval by decision, an import in batches, checkpoints, errors of every kind, domain
//! events, a registration at several services and transfers in a ledger, each on real input.
//!
//! [`templates`] are the YAML documents to register, [`register`] and [`register_with_database`] add the
//! handlers to a worker's registry,
//! [`write_data`] puts the shipped input files into a folder, and [`demos`] are tasks on these files together with
//! a check of their results. Everything is embedded, so an installed binary needs no source tree.

mod accounts;
mod analytics;
mod announcements;
mod arithmetic;
mod batches;
mod catalogue;
mod csv;
mod demo;
mod expenses;
mod files;
mod inventory;
mod ledger;
mod money;
mod orders;
mod polyglot;
mod scenarios;
mod stock;

use std::io;
use std::path::Path;

use tasker_worker::HandlerRegistry;
use tasker_worker::sqlx::PgPool;

pub use demo::{Demo, Mismatch, demos, polyglot_demo};

const PRODUCTS: &str = include_str!("../data/products.csv");
const ORDER: &str = include_str!("../data/order.json");
const SALES: &str = include_str!("../data/sales.csv");
const CUSTOMERS: &str = include_str!("../data/customers.json");
const STOCK: &str = include_str!("../data/stock.csv");

/// Adds the handlers of all example templates that need no database of their own.
pub fn register(registry: &mut HandlerRegistry) {
    arithmetic::register(registry);
    orders::register(registry);
    inventory::register(registry);
    analytics::register(registry);
    expenses::register(registry);
    batches::register(registry);
    stock::register(registry);
    scenarios::register(registry);
    announcements::register(registry);
    accounts::register(registry);
    polyglot::register(registry);
}

/// Adds the handlers that write into the database that Tasker works on, in the schema `examples`. A pool of a few
/// connections will do; it should not be the worker's, which must have one free for its heartbeats.
pub fn register_with_database(registry: &mut HandlerRegistry, pool: &PgPool) {
    ledger::register(registry, pool);
}

/// The example templates: name and YAML text.
#[must_use]
pub fn templates() -> &'static [(&'static str, &'static str)] {
    &[
        ("linear", include_str!("../templates/linear.yaml")),
        ("diamond", include_str!("../templates/diamond.yaml")),
        ("tree8", include_str!("../templates/tree8.yaml")),
        ("dag7", include_str!("../templates/dag7.yaml")),
        ("order_fulfillment", include_str!("../templates/order_fulfillment.yaml")),
        ("product_inventory", include_str!("../templates/product_inventory.yaml")),
        ("analytics_pipeline", include_str!("../templates/analytics_pipeline.yaml")),
        ("expense_approval", include_str!("../templates/expense_approval.yaml")),
        ("catalogue_import", include_str!("../templates/catalogue_import.yaml")),
        ("checkpoint_resume", include_str!("../templates/checkpoint_resume.yaml")),
        ("error_scenarios", include_str!("../templates/error_scenarios.yaml")),
        ("domain_events", include_str!("../templates/domain_events.yaml")),
        ("user_registration", include_str!("../templates/user_registration.yaml")),
        ("account_transfer", include_str!("../templates/account_transfer.yaml")),
    ]
}

/// The template of a task whose steps run in Rust, Python, Ruby and TypeScript: only one of them is here, the others in
/// the examples of these languages.
#[must_use]
pub fn polyglot() -> (&'static str, &'static str) {
    ("polyglot", include_str!("../templates/polyglot.yaml"))
}

/// The input files of the examples: file name and content.
#[must_use]
pub fn data_files() -> &'static [(&'static str, &'static str)] {
    &[
        ("products.csv", PRODUCTS),
        ("order.json", ORDER),
        ("sales.csv", SALES),
        ("customers.json", CUSTOMERS),
        ("stock.csv", STOCK),
    ]
}

/// Writes the input files into a folder, which is made if it is not there. Files of these names are overwritten.
///
/// # Errors
/// The folder can't be made or a file can't be written.
pub fn write_data(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    data_files().iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text))
}
