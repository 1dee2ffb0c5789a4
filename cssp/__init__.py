"""Column subset selection with theorems, certificates and tests."""

from __future__ import annotations

from cssp import bounds, matrices
from cssp.errors import CsspError, RankDeficientWarning
from cssp.methods import METHODS, Method
from cssp.select import select
from cssp.selection import Certificate, Selection

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
