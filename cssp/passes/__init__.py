"""Column selection on matrices that are read in passes: dask arrays, sparse matrices, linear operators, large mapped files.

`Source` says what a method may ask of such a matrix; `METHODS` holds the methods written on it. `cssp.select` comes here
by itself, and nothing but `kind_of` is imported before it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Bytes beyond which a matrix in a file mapped into memory (`numpy.memmap`) is read in passes.
MAPPED = 1 << 29

_DASK = {("dask.array", "Array"), ("dask.dataframe", "DataFrame")}


def kind_of(A: Any) -> str | None:
    """Return "dask", "sparse", "operator" or "mapped" for a matrix that is read in passes; None for everything else.

    "mapped" is a large `numpy.memmap` that shows the file as it is; one of mode "c" may differ from its file, and is an array
    in memory like any other.
    """
    if isinstance(A, np.memmap):
        shared = A.mode in ("r", "r+", "w+") and A.ndim == 2
        return "mapped" if shared and A.nbytes > MAPPED else None
    homes = [(base.__module__, base.__name__) for base in type(A).__mro__]
    if any(module.startswith(home) and name == which for module, name in homes for home, which in _DASK):
        return "dask"
    if any(module.startswith("scipy.sparse.linalg") and name == "LinearOperator" for module, name in homes):
        return "operator"
    return "sparse" if any(module.startswith("scipy.sparse") for module, _ in homes) else None


def __getattr__(name: str) -> Any:
    """Return what `cssp.passes.table` offers, imported where it is first used."""
    if name.startswith("__"):
        raise AttributeError(f"module 'cssp.passes' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("cssp.passes.table"), name)
