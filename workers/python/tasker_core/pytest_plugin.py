"""For pytest: the fixture ``tasker_workflow`` runs whole workflows in memory. It is there as soon as the package is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import Workflow


@pytest.fixture
def tasker_workflow() -> Callable[..., Workflow]:
    """:func:`tasker_core.testing.run_workflow`."""

    def run_workflow(*arguments: Any, **options: Any) -> Workflow:
        from .testing import run_workflow

        return run_workflow(*arguments, **options)

    return run_workflow
