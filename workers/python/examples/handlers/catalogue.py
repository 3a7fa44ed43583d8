"""Importing a catalogue in batches: a step says how to split the file, a worker step is made for each batch, and a
convergence joins what they counted."""

from __future__ import annotations

from typing import Any

import files
import products

from tasker_core import PermanentError, StepContext, ValidationError
from tasker_core.step_handler.functional import (
    BatchConfig,
    batch_analyzer,
    batch_worker,
    depends_on,
    inputs,
    step_handler,
)


@batch_analyzer("catalogue.Split", worker_template="import_batch")
@inputs("products_file")
def split(products_file: str, context: StepContext) -> BatchConfig:
    text = files.read_text(products_file)
    count = len(products.parse(products_file, text))
    return BatchConfig(count, context.batch_config["batch_size"], {"fingerprint": files.fingerprint(text)})


@batch_worker("catalogue.ImportBatch")
@inputs("products_file")
@depends_on(found="split")
def import_batch(products_file: str, found: dict[str, Any], batch_context: Any) -> dict[str, int]:
    text = files.read_text(products_file)
    if files.fingerprint(text) != found["batch_metadata"]["fingerprint"]:
        message = f"{products_file}: changed between two steps of the same task"
        raise ValidationError(message, error_code="FILE_CHANGED")
    rows = products.parse(products_file, text)[batch_context.start_cursor : batch_context.end_cursor]
    return {
        "products": len(rows),
        "units": sum(product.stock for product in rows),
        "stock_value_cents": sum(product.stock * product.price_cents for product in rows),
    }


@step_handler("catalogue.Totals")
@depends_on(found="split")
def totals(found: dict[str, Any], context: StepContext) -> dict[str, int]:
    batches = [each for each in context.get_all_dependency_results("import_batch_") if not each.get("no_op")]
    total = {key: sum(batch[key] for batch in batches) for key in ("products", "units", "stock_value_cents")}
    expected = found.get("total_items", 0)
    if total["products"] != expected:
        raise PermanentError(f"{total['products']} of {expected} products were imported")
    return {"batches": len(batches), **total}
