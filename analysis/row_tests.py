"""A pytest plugin, ``-p analysis.row_tests``, that keeps the tests which a new row of a table concerns.

A test is kept where a parameter of it names one of `NEW`; and where it goes through all rows, that is, where it or a function of its module
that it calls reads ``METHODS``, ``PRUNERS`` or ``MUTANTS`` as a whole, and no parameter of it names a row that was there before.
"""

from __future__ import annotations

import dis
import sys
import types
from typing import Any

NEW = ("power_norm", "centred")
TABLES = {"METHODS", "PRUNERS", "MUTANTS"}


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep the tests that a new row concerns."""
    from vlm_bridge import PRUNERS

    def concerned(item: Any) -> bool:
        given = item.callspec.id.split("-") if hasattr(item, "callspec") else []
        return any(name in NEW for name in given) or (
            not any(name in PRUNERS for name in given) and _reads_a_table(item.function, set())
        )

    kept = [item for item in items if concerned(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _reads_a_table(function: Any, seen: set[Any]) -> bool:
    seen.add(function)
    own, names = vars(sys.modules[function.__module__]), set()
    for code in _codes(function.__code__):
        steps = list(dis.get_instructions(code))
        for i, step in enumerate(steps):
            if step.argval in TABLES and not any(
                "SUBSCR" in s.opname or s.argrepr == "[]" for s in steps[i : i + 3]
            ):
                return True
            names.add(step.argval if isinstance(step.argval, str) else "")
    called = (own.get(name) for name in names)
    return any(
        _reads_a_table(one, seen)
        for one in called
        if isinstance(one, types.FunctionType) and one.__module__ == function.__module__ and one not in seen
    )


def _codes(code: types.CodeType) -> list[types.CodeType]:
    inner = [_codes(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return [code, *(one for codes in inner for one in codes)]
