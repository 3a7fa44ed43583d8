from __future__ import annotations

from tasker_core import HandlerRegistry, StepHandler
from tasker_core.step_handler.functional import step_handler


class Outer(StepHandler):
    handler_name = "another.name"
    handler_methods = ("call", "undo")

    def call(self, context):
        return {"found": "Outer", "as": context.handler_name}

    async def undo(self, context):
        return {"found": "Outer.undo"}

    class Inner(StepHandler):
        def call(self, context):
            return {"found": "Inner"}


@step_handler("yet.another.name")
def function():
    return {"found": "function"}


class Shout(StepHandler):
    def call(self, context):
        return {"said": context.handler_name.split(":")[1].upper()}


HandlerRegistry.instance().register_resolver(
    "shout", lambda callable, method: Shout if callable.startswith("shout:") else None
)
