"""Column subset selection with theorems, certificates and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cssp import bounds
from cssp.errors import CsspError, RankDeficientWarning
from cssp.methods import METHODS, Method
from cssp.select import select
from cssp.selection import Certificate, Selection

if TYPE_CHECKING:
    from cssp import matrices

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Certificate",
    "CsspError",
    "Method",
    "RankDeficientWarning",
    "Selection",
    "__version__",
    "bounds",
    "matrices",
    "select",
]


def __getattr__(name: str) -> Any:
    """`cssp.matrices` is imported where it is first used: `select` needs none of it."""
    if name == "matrices":
        import importlib

        return importlib.import_module("cssp.matrices")
    raise AttributeError(f"module 'cssp' has no attribute {name!r}")
