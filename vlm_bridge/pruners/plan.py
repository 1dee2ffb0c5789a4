"""What a pruner is: a row of the table, and the plan it makes for one image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vlm_bridge.relevance import Relevance


@dataclass(frozen=True)
class Plan:
    """One image, ready for `cssp.select`: its columns, their weights, and which method looks at them.

    Attributes
    ----------
    columns : Tensor (d, n), or None where `indices` says it all
    method : str
        A name in `cssp.METHODS`.
    weights : Tensor (n,), optional
    include : tuple of int
        Columns taken first.
    options : mapping
        Options of the method.
    indices : tuple of int, optional
        The answer itself, for rules that do not look at the features.
    """

    columns: Tensor | None = None
    method: str = "residual"
    weights: Tensor | None = None
    include: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Pruner:
    """A published system, or a cssp method, as a row.

    Attributes
    ----------
    name, summary, citation : str
    plan : callable
        ``plan(features, k, weights, **options) -> Plan`` for one image: features (n, d), weights (n,) or
        None.
    relevance : Relevance, optional
        Used when the caller does not choose one.
    weighted : bool
        Whether a relevance can be given at all.
    """

    name: str
    summary: str
    citation: str
    plan: Callable[..., Plan]
    relevance: Relevance | None = None
    weighted: bool = True
    open_options: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals the pruner cannot do without, unless the caller gives `relevance` scores."""
        return self.relevance.signals if self.relevance is not None else ()

    @property
    def accepts(self) -> tuple[str, ...]:
        """Signals the pruner can use, depending on `relevance`."""
        return ("clip_patches", "clip_text", "llm_text") if self.weighted else ()

    @property
    def uses_text(self) -> bool:
        """Whether the choice depends on the question by default."""
        return self.relevance is not None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the pruner's own options; a cssp method's are checked by cssp itself."""
        found = inspect.signature(self.plan).parameters.values()
        return tuple(p.name for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY)
