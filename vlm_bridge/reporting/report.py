"""Record what pruning did, in the order of the placeholders, over all calls inside a block."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from vlm_bridge.reporting.cost import Cost


@dataclass(frozen=True)
class Cut:
    """One cut of one image inside the LLM.

    Attributes
    ----------
    layer : int
        First decoder layer that works on fewer tokens.
    kept : Tensor (k,), int64
        Ascending indices of the image's tokens that remain; a merged token has the index at whose place it stands.
    merge : Tensor (k, m), optional
        The k hidden states are ``merge`` times the m hidden states before this cut.
    """

    layer: int
    kept: Tensor
    merge: Tensor | None = None


_ENTERING = threading.Lock()
"""One lock for all reports, so that reports can be copied and pickled."""


@dataclass
class Report:
    """What pruning did; each list has one entry for each image or video, in the order of the placeholders.

    Entries of one call follow one another, whichever threads make calls, and calls are in the order in which they were
    pruned. `threads` names the thread of each entry.

    Attributes
    ----------
    method : str
    kept : list of Tensor (k,), int64
        Ascending indices of the kept rows of each image.
    sizes : list of int
        Number of tokens of each image before pruning.
    errors : list of float
        Relative reconstruction error ‖X − P_S X‖_F / ‖X‖_F of the projected tokens X from the kept ones S, before any
        folding.
    seconds : list of float
        Time in seconds to choose for each image, without encoder and signals.
    reused : list of bool
        Whether the choice of an earlier call was used again: the image came back, as with a second question, and
        nothing that the pruner reads had changed. `seconds` is then the time to recognise it, or 0 in a call that also
        had new images. Pruners inside the LLM always choose anew.
    merges : list of (Tensor (k, n) or None)
        Matrix that makes the rows that the LLM gets of the image's tokens, where the pruner or `fold` merges them. With
        VisionZip it has one more column, for the vision tower's CLS row. None where kept tokens are unchanged.
    rows : list of int
        Index in the batch of the prompt that shows the image.
    cuts : list of tuple of Cut
        Cuts of each image inside the LLM, in order; none where it was pruned in front of it. `kept` is that of the last
        cut, `merges` the product of the merge matrices of all.
    layers : list of tuple of int
        Number of the image's tokens that each decoder layer worked on, for images cut inside the LLM.
    threads : list of int
        ``threading.get_ident()`` of the thread that made the call.
    calls : int
        Number of pruned calls; those without an image do not count.
    cost : Cost
        Tokens, KV-cache bytes and prefill FLOPs before and after, summed over calls, and the time to choose.
        ``report.cost.break_even(flops_per_second, bytes_per_second)`` says when pruning pays.
    """

    method: str
    kept: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reused: list[bool] = field(default_factory=list)
    merges: list[Tensor | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    cuts: list[tuple[Cut, ...]] = field(default_factory=list)
    layers: list[tuple[int, ...]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    calls: int = 0
    _cost: Cost = field(default_factory=Cost, repr=False)

    @property
    def cost(self) -> Cost:
        """Cost of all calls."""
        return replace(self._cost, seconds=sum(self.seconds))

    @cost.setter
    def cost(self, cost: Cost) -> None:
        self._cost = cost

    def enter(self, cost: Cost, **entries: Sequence[Any]) -> None:
        """Add a call: its cost, and one entry for each of its images to every list that is named."""
        (images,) = {len(values) for values in entries.values()}
        with _ENTERING:
            for name, values in entries.items():
                getattr(self, name).extend(values)
            self.threads.extend([threading.get_ident()] * images)
            self.calls += 1
            self.cost += cost

    def __repr__(self) -> str:
        kept = sum(len(k) for k in self.kept)
        again = f", {sum(self.reused)} of them as before" if any(self.reused) else ""
        return (
            f"Report({self.method!r}, images={len(self.kept)}{again}, kept {kept} of {sum(self.sizes)} tokens, "
            f"calls={self.calls})"
        )
