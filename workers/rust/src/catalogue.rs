//! The product catalogue: a CSV file that the shop's orders and its inventory report both read.

use crate::csv::{self, CsvError};
use crate::money::{Cents, QUANTITY_LIMIT};

const HEADER: &[&str] = &["sku", "name", "category", "price", "stock", "reorder_level", "weight_grams", "supplier"];

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) price: Cents,
    pub(crate) stock: i64,
    pub(crate) reorder_level: i64,
    pub(crate) weight_grams: i64,
}

/// Every product, in the file's order. A SKU that comes twice is refused: which of the two stocks holds?
pub(crate) fn products(text: &str) -> Result<Vec<Product>, CsvError> {
    let mut known = std::collections::HashSet::new();
    csv::rows(text, HEADER)?
        .into_iter()
        .map(|row| {
            let product = product(&row)?;
            if known.insert(product.sku.clone()) { Ok(product) } else { Err(row.refuse("sku")) }
        })
        .collect()
}

fn product(row: &csv::Row) -> Result<Product, CsvError> {
    let quantity = |column: &'static str| {
        let value: i64 = row.value(column)?;
        if (0..=QUANTITY_LIMIT).contains(&value) { Ok(value) } else { Err(row.refuse(column)) }
    };
    Ok(Product {
        sku: row.text("sku")?.to_owned(),
        name: row.text("name")?.to_owned(),
        category: row.text("category")?.to_owned(),
        price: row.value("price")?,
        stock: quantity("stock")?,
        reorder_level: quantity("reorder_level")?,
        weight_grams: quantity("weight_grams")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HEAD: &str = "sku,name,category,price,stock,reorder_level,weight_grams,supplier\n";

    #[test]
    fn a_product_is_read_whole_or_refused() {
        let good = products(&format!("{HEAD}P-1,\"Pan, large\",cookware,12.30,5,2,900,Brno\n")).unwrap();
        assert_eq!((good[0].price, good[0].stock, good[0].name.as_str()), (Cents(1_230), 5, "Pan, large"));
        for (row, column) in [
            ("P-1,Pan,cookware,free,5,2,900,Brno", "price"),
            ("P-1,Pan,cookware,12.30,-1,2,900,Brno", "stock"),
            (",Pan,cookware,12.30,5,2,900,Brno", "sku"),
            ("P-0,Pan,cookware,12.30,5,2,900,Brno", "sku"),
        ] {
            let text = format!("{HEAD}P-0,Pan,cookware,1.00,5,2,900,Brno\n{row}\n");
            assert_eq!(products(&text), Err(CsvError::Value { line: 3, column }), "{row}");
        }
    }
}
