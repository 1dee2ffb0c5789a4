"""Column subset selection with theorems, certificates and tests."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from cssp import bounds
from cssp.certificate import Certificate
from cssp.errors import (
    ArgumentError,
    CsspError,
    MissingFileError,
    RankDeficientError,
    RankDeficientWarning,
    TimeLimitWarning,
    UnknownNameError,
    UnsupportedError,
)
from cssp.methods import METHODS, Guarantee, Method
from cssp.missing_values import Missing
from cssp.select import select
from cssp.selection import Selection

if TYPE_CHECKING:
    from cssp import kernels, matrices, passes, plotting
    from cssp.comparison import Comparison, compare
    from cssp.conditions import AtMost, Constraint, MinDistance
    from cssp.cur_decomposition import CUR, CURCertificate, cur
    from cssp.cur_from_samples import SampledCUR, sampled_cur
    from cssp.estimators import ColumnSubsetSelector, LandmarkSelector, SampleSelector
    from cssp.independent import Independent, independent_columns
    from cssp.interpolative_decomposition import ID, interpolative
    from cssp.nystrom import GramSelection, select_gram
    from cssp.streaming import StreamingSelector, StreamSelection

__version__ = "0.2.0"

__all__ = [
    "CUR",
    "ID",
    "METHODS",
    "ArgumentError",
    "AtMost",
    "CURCertificate",
    "Certificate",
    "ColumnSubsetSelector",
    "Comparison",
    "Constraint",
    "CsspError",
    "GramSelection",
    "Guarantee",
    "Independent",
    "LandmarkSelector",
    "Method",
    "MinDistance",
    "Missing",
    "MissingFileError",
    "RankDeficientError",
    "RankDeficientWarning",
    "SampleSelector",
    "SampledCUR",
    "Selection",
    "StreamSelection",
    "StreamingSelector",
    "TimeLimitWarning",
    "UnknownNameError",
    "UnsupportedError",
    "__version__",
    "bounds",
    "compare",
    "cur",
    "independent_columns",
    "interpolative",
    "kernels",
    "matrices",
    "passes",
    "plotting",
    "sampled_cur",
    "select",
    "select_gram",
]

#: Names that are imported where they are first used: `select` needs none of them.
_LATER = {
    "AtMost": "cssp.conditions",
    "CUR": "cssp.cur_decomposition",
    "CURCertificate": "cssp.cur_decomposition",
    "ColumnSubsetSelector": "cssp.estimators",
    "Comparison": "cssp.comparison",
    "Constraint": "cssp.conditions",
    "GramSelection": "cssp.nystrom",
    "ID": "cssp.interpolative_decomposition",
    "Independent": "cssp.independent",
    "LandmarkSelector": "cssp.estimators",
    "MinDistance": "cssp.conditions",
    "SampleSelector": "cssp.estimators",
    "SampledCUR": "cssp.cur_from_samples",
    "StreamSelection": "cssp.streaming",
    "StreamingSelector": "cssp.streaming",
    "compare": "cssp.comparison",
    "cur": "cssp.cur_decomposition",
    "independent_columns": "cssp.independent",
    "interpolative": "cssp.interpolative_decomposition",
    "sampled_cur": "cssp.cur_from_samples",
    "select_gram": "cssp.nystrom",
}

#: Modules are imported where they are first named.
_MODULES = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"cssp.{name}")
    raise AttributeError(f"module 'cssp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
