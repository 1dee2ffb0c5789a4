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
    from cssp.estimators import ColumnSubsetSelector, LandmarkSelector
    from cssp.nystrom import GramSelection, select_gram
    from cssp.streaming import StreamingSelector, StreamSelection

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Certificate",
    "ColumnSubsetSelector",
    "CsspError",
    "GramSelection",
    "LandmarkSelector",
    "Method",
    "RankDeficientWarning",
    "Selection",
    "StreamSelection",
    "StreamingSelector",
    "__version__",
    "bounds",
    "matrices",
    "select",
    "select_gram",
]


#: Names that are imported where they are first used: `select` needs none of them.
_LATER = {
    "ColumnSubsetSelector": "cssp.estimators",
    "GramSelection": "cssp.nystrom",
    "LandmarkSelector": "cssp.estimators",
    "StreamSelection": "cssp.streaming",
    "StreamingSelector": "cssp.streaming",
    "matrices": "cssp.matrices",
    "select_gram": "cssp.nystrom",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        module = importlib.import_module(_LATER[name])
        return getattr(module, name, module)
    raise AttributeError(f"module 'cssp' has no attribute {name!r}")
