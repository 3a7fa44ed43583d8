"""The product catalogue: a CSV file that several workflows read. No handlers are here."""

from __future__ import annotations

from dataclasses import dataclass

import files

COLUMNS = ("sku", "name", "category", "price", "stock", "reorder_level", "weight_grams", "supplier")


@dataclass(frozen=True)
class Product:
    sku: str
    name: str
    price_cents: int
    stock: int
    weight_grams: int


def read(path: str) -> list[Product]:
    """Every product, in the file's order."""
    return parse(path, files.read_text(path))


def parse(path: str, text: str) -> list[Product]:
    """The same, of text that was read already. A SKU that comes twice is refused: which of the two stocks holds?"""
    products: dict[str, Product] = {}
    for row in files.parse_csv(path, text, COLUMNS):
        try:
            numbers = (files.cents(row["price"]), files.quantity(row["stock"]), files.quantity(row["weight_grams"]))
        except ValueError as error:
            raise files.malformed(path, f"{row['sku']}: {error}") from None
        if row["sku"] in products:
            raise files.malformed(path, f"{row['sku']} comes twice")
        products[row["sku"]] = Product(row["sku"], row["name"], *numbers)
    return list(products.values())
