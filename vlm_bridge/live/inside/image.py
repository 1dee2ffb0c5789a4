"""Keep what is known of one image while its tokens are cut inside the LLM, and form merged hidden states."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlm_bridge.pruners.inside import Stage
from vlm_bridge.reporting.report import Cut


@dataclass
class Image:
    """An image in a prompt.

    Attributes
    ----------
    item : int
        Index of the prompt in the batch.
    columns : Tensor (n,)
        Columns of the prompt at which the image's tokens stand.
    features : Tensor (n, d), optional
        The visual rows that enter the LLM.
    stages : tuple of Stage
        Where it is cut; empty for copies of a prompt, which follow the first copy.
    cuts : list of Cut
        What has been kept, one for each stage that has been reached.
    seconds : float
        Time spent on choosing.
    raters : Tensor, optional
        Columns of the text tokens whose attention is read.
    """

    item: int
    columns: Tensor
    features: Tensor | None = None
    stages: tuple[Stage, ...] = ()
    cuts: list[Cut] = field(default_factory=list)
    seconds: float = 0.0
    raters: Tensor | None = None

    def remaining(self, stage: int) -> Tensor:
        """Return the ascending indices of the tokens that are left before a stage."""
        return self.cuts[stage - 1].kept if stage else torch.arange(len(self.columns))

    def merge(self) -> Tensor | None:
        """Multiply the merge matrices of all cuts into one (k, n); None where nothing was merged."""
        if all(cut.merge is None for cut in self.cuts):
            return None
        product = torch.eye(len(self.columns))
        for stage, cut in enumerate(self.cuts):
            step = cut.merge
            if step is None:
                step = (self.remaining(stage) == cut.kept[:, None]).float()
            product = step.to(product) @ product
        return product


def with_merged(
    target: Tensor, hidden: Tensor, item: int, before: Tensor, kept: Tensor, merge: Tensor
) -> Tensor:
    """Write the merged tokens of one image into hidden states.

    Parameters
    ----------
    target, hidden : Tensor (B, L', d)
        States to write into, and states to merge.
    item : int
    before : Tensor (m,)
        Places of the image's tokens before the cut.
    kept : Tensor (k,)
        Places of those that stay.
    merge : Tensor (k, m)

    Returns
    -------
    Tensor (B, L', d)
        `target` itself where no token is merged.
    """
    merge = merge.to(hidden.device)
    alone = (before == kept[:, None]).to(merge)
    changed = (merge != alone).any(1)
    if not bool(changed.any()):
        return target
    wide = torch.promote_types(hidden.dtype, torch.float32)
    rows = (merge[changed].to(wide) @ hidden[item, before].to(wide)).to(hidden.dtype)
    where = kept[changed]
    return target.index_put((torch.full_like(where, item), where), rows)
