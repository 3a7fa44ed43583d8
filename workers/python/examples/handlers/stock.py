"""Valuing a stock with checkpoints: what was counted before a failure is not counted again."""

from __future__ import annotations

from typing import Any, Optional, Union

import products

from tasker_core import RetryableError, StepContext, StepHandlerResult
from tasker_core.step_handler.functional import inputs, step_handler


@step_handler("stock.Value")
@inputs("products_file", "fail_at")
def value(products_file: str, fail_at: Optional[int], context: StepContext) -> Union[StepHandlerResult, dict[str, Any]]:
    catalogue = products.read(products_file)
    start = context.checkpoint_cursor or 0
    counted = context.accumulated_results or {"units": 0, "stock_value_cents": 0, "began_at": []}
    if len(counted["began_at"]) < context.attempt:
        counted["began_at"].append(start)
    if fail_at == start and not context.is_retry():
        raise RetryableError(f"interrupted at row {start}")
    end = min(start + context.get_config("stride"), len(catalogue))
    for product in catalogue[start:end]:
        counted["units"] += product.stock
        counted["stock_value_cents"] += product.stock * product.price_cents
    if end < len(catalogue):
        return StepHandlerResult.checkpoint_yield(end, end, counted)
    return {"products": len(catalogue), **counted}
