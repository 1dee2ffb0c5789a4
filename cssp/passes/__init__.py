"""Column selection on matrices that are read in passes: dask arrays, sparse matrices, linear operators.

`Source` says what a method may ask of such a matrix; `METHODS` holds the methods written on it. `cssp.select` comes here
by itself, and nothing but `kind_of` is imported before it does.
"""

from __future__ import annotations

from typing import Any


def kind_of(A: Any) -> str | None:
    """ "dask", "sparse" or "operator" for a matrix that is read in passes; None for everything else."""
    homes = [(base.__module__, base.__name__) for base in type(A).__mro__]
    if any(module.startswith("dask.array") and name == "Array" for module, name in homes):
        return "dask"
    if any(module.startswith("scipy.sparse.linalg") and name == "LinearOperator" for module, name in homes):
        return "operator"
    return "sparse" if any(module.startswith("scipy.sparse") for module, _ in homes) else None


def __getattr__(name: str) -> Any:
    """What `cssp.passes.table` offers, imported where it is first used."""
    if name.startswith("__"):
        raise AttributeError(f"module 'cssp.passes' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("cssp.passes.table"), name)
