"""What pruning did: one record, in placeholder order, growing with every call inside the context."""

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
        Ascending rows of the image that are left; of merged tokens, the row at whose place they stand.
    merge : Tensor (k, m), optional
        How the k hidden states are made of the m that were there before this cut.
    """

    layer: int
    kept: Tensor
    merge: Tensor | None = None


_ENTERING = threading.Lock()
"""Not of one report, so that reports can be copied and pickled."""


@dataclass
class Report:
    """Accumulated over calls; each list has one entry per image, in the order of the placeholders.

    Entries of one call stand together, whichever threads make calls; calls stand in the order in which they were
    pruned. `threads` says whose an entry is.

    Attributes
    ----------
    method : str
    kept : list of Tensor (k,), int64
        Ascending indices of the kept rows of each image.
    sizes : list of int
        Rows of each image before pruning.
    errors : list of float
        ‖X − P_S X‖_F / ‖X‖_F of the projected tokens: what the kept rows cannot reconstruct. With
        ``fold=True`` still of the rows before they were folded.
    seconds : list of float
        Time to choose, per image, without encoder and signals.
    reused : list of bool
        Whether a choice made before was found again: the image came back, as with a second question, and
        nothing that the pruner reads had changed. `seconds` is then the time to recognise it, or 0 beside
        images that were new. Inside the LLM the choice is always made anew.
    merges : list of (Tensor (k, n) or None)
        How the rows that went in are made of the image's tokens, where the pruner or `fold` merges them; of
        VisionZip with one more column for the vision tower's CLS row. None where kept tokens are unchanged.
    rows : list of int
        Prompt of the call's batch in which the image stands.
    cuts : list of tuple of Cut
        Where an image was cut inside the LLM, in order; empty where it was pruned before. `kept` is what the
        last one left, `merges` the product of their merge matrices.
    layers : list of tuple of int
        Tokens of the image that each decoder layer worked on, of images cut inside the LLM.
    threads : list of int
        ``threading.get_ident()`` of the thread that made the call.
    calls : int
        Pruned calls; pass-through calls do not count.
    cost : Cost
        Tokens, KV-cache bytes and prefill FLOPs before and after, summed over calls, and the time to choose:
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
        """Summed over calls."""
        return replace(self._cost, seconds=sum(self.seconds))

    @cost.setter
    def cost(self, cost: Cost) -> None:
        self._cost = cost

    def enter(self, cost: Cost, **entries: Sequence[Any]) -> None:
        """Add one call: what it cost, and the entries of its images in lists that it names, all of one length."""
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
