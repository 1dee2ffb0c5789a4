"""Encode the images and videos of a call, and gather what its pruner reads and how much it may keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.budget import Part, PerTile, parts_of
from vlm_bridge.errors import BridgeError
from vlm_bridge.live.settings import Settings
from vlm_bridge.model.encoding import Encoded, encode
from vlm_bridge.model.families import KINDS, Family, Kind, anyres, separators_of
from vlm_bridge.model.layout import positions_of
from vlm_bridge.model.patches import patches_per_token, projection
from vlm_bridge.model.prompt import Prompt, Visual
from vlm_bridge.model.tower import watched
from vlm_bridge.selection.given import check_finite
from vlm_bridge.selection.request import Request
from vlm_bridge.selection.signals import Live, Sources


@dataclass(frozen=True)
class EncodedCall:
    """A call whose images and videos have been encoded, with all that choosing tokens needs.

    Attributes
    ----------
    request : Request
    encoded : mapping from Kind to Encoded
    prompt : Prompt
    visuals : list of Visual
        Images and videos in the order of their placeholders; the lists below follow it.
    signals : list of mapping
    parts : list of Part
        Sets of rows with the number to keep of each, protected rows left out.
    protected : list of Tensor (s_i,)
        Rows of each image that stay whatever the pruner says.
    project : callable, optional
        The projector, where merging in front of it is possible.
    positions : Tensor (B, L) or (axes, B, L)
        Of the unpruned prompt.
    text_axis : bool
        As of `Layout`.
    """

    request: Request
    encoded: Mapping[Kind, Encoded]
    prompt: Prompt
    visuals: list[Visual]
    signals: list[dict[str, Any]]
    parts: list[Part]
    protected: list[Tensor]
    project: Callable[[Tensor], Tensor] | None
    positions: Tensor
    text_axis: bool

    @property
    def images(self) -> list[Tensor]:
        """Visual rows (n_i, d) of each image or video, without gradients."""
        return [visual.rows.detach() for visual in self.visuals]


def encode_call(model: Any, family: Family, inputs: Mapping[str, Any], settings: Settings) -> EncodedCall:
    """Run the encoders of a call that shows an image or a video, and gather what choosing tokens needs.

    Raises
    ------
    BridgeError
        As in `prune`.
    """
    request = settings.request()
    per_tile = isinstance(settings.keep, PerTile)
    tiled = ("vision_clip",) if per_tile and family.pack is anyres else ()
    watch = tuple(name for name in request.wants if name not in settings.signals) + tiled
    encoded, towers = {}, {}
    for kind in KINDS:
        if kind.given(inputs):
            with watched(model, family, inputs, watch, kind) as towers[kind]:
                encoded[kind] = encode(model, inputs, kind)
    prompt = Prompt.of(model, inputs)
    visuals = prompt.visuals(model, family, encoded)
    for i, visual in enumerate(visuals):
        check_finite(visual.rows, f"{visual.kind.name} {i} (batch item {visual.item}): ")
    positions, text_axis = positions_of(model, inputs, prompt)
    images = [visual.rows.detach() for visual in visuals]
    sources = Sources(settings.signals, settings.processor, settings.clip, settings.clean)
    live = Live(model, family, inputs, prompt, visuals, towers, sources)
    tiles = live.tiles() if per_tile else None
    parts = parts_of(settings.keep, images, settings.tol, [visual.item for visual in visuals], tiles)
    protected = [_protected(model, image, settings) for image in images]
    parts = [_without(part, protected) for part in parts]
    signals = live.gather(request)
    # Where the projector itself joins patches, tokens are merged behind it, as VisionZip's authors do.
    project = projection(model, family) if patches_per_token(model, family) == 1 else None
    return EncodedCall(
        request, encoded, prompt, visuals, signals, parts, protected, project, positions, text_axis
    )


def _protected(model: Any, image: Tensor, settings: Settings) -> Tensor:
    """Return the rows (s,) of an image that stay whatever the pruner says."""
    if settings.separators == "prune":
        return torch.zeros(0, dtype=torch.int64)
    return separators_of(model, image).nonzero()[:, 0].cpu()


def _without(part: Part, protected: list[Tensor]) -> Part:
    """Take the protected rows out of a part, and out of its budget."""
    rows = tuple((i, at[~torch.isin(at.cpu(), protected[i]).to(at.device)]) for i, at in part.rows)
    taken = part.n - sum(len(at) for _, at in rows)
    if part.k <= taken:
        raise BridgeError(
            f"keep = {part.k} of image {part.rows[0][0]}, but {taken} of its rows are separators, which stay and "
            "count: keep more, or use separators='prune'."
        )
    return Part(rows, part.k - taken)
