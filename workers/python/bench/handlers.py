"""The handler that the templates of `tasker bench` call.

DATABASE_URL=… python -m tasker_core worker --handlers workers/python/bench --namespace bench
"""

from __future__ import annotations

from tasker_core.step_handler.functional import step_handler


@step_handler("bench.nothing")
def nothing() -> dict[str, bool]:
    return {"ok": True}
