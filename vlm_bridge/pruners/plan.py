"""Define a pruner, which is a row of the table, and the plan that it makes for one image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vlm_bridge.pruners.inside import Inside
from vlm_bridge.pruners.relevance import Relevance

SIGNALS = {
    "clip_patches": 2,
    "clip_text": 2,
    "llm_text": 2,
    "vision_clip": 2,
    "vision_mean": 2,
    "vision_cls": 1,
    "vision_keys": 3,
    "vision_values": 3,
    "cls_attention": 2,
    "received": 2,
    "received_early": 2,
    "projector": None,
    "hidden": 2,
    "keys": 3,
    "attention": 3,
    "image_start": 0,
    "frames": 0,
}
"""The signals that a pruner may read beyond the features, and their number of dimensions for one image.

`clip_patches` (n, d) and `clip_text` (M, d): CLIP's joint space. `llm_text` (M, d): the prompt's rows of the
LLM's embedding table. Of the vision tower at its feature layer: `vision_clip` (n, d), the rows that the
projector is given, side by side where it joins several patches to a token; `vision_mean` (n, d), the mean of a
token's patches; `vision_cls` (d,), the CLS row; `vision_keys` and `vision_values` (heads, n, d);
`cls_attention` (heads, n), from CLS to the patches or, where there is no CLS, what a patch receives on average
from all patches of its image or frame; both are means over a token's patches. `received` and `received_early` (heads, n): what a
patch receives on average from CLS and all patches, at the feature layer and at an early layer (`vlm_bridge.model.tower`).
`projector`: a callable, rows `vision_clip` of the vision tower to rows of the LLM. Of a layer of
the LLM: `hidden` (L, d), `keys` (heads, L, d), `attention` (heads, queries, n) of text tokens to the image,
and `image_start`, the image's first place among the L. `frames`: the number of frames of a video, 1 for an image."""

WANTED = {
    "clip_patches": "patch embeddings in CLIP's joint space",
    "clip_text": "a CLIP text tower",
    "llm_text": "the prompt's text in the LLM's embedding space",
    "vision_clip": "the vision tower's rows",
    "vision_mean": "the vision tower's rows",
    "vision_cls": "a vision tower with a CLS token",
    "vision_keys": "the vision tower's keys",
    "vision_values": "the vision tower's values",
    "cls_attention": "the vision tower's attention to its patches",
    "received": "the vision tower's attention to its patches",
    "received_early": "the attention of an early layer of the vision tower",
    "projector": "the model's projector",
    "hidden": "hidden states of a decoder layer",
    "keys": "keys of a decoder layer",
    "attention": "attention rows of a decoder layer",
    "image_start": "the image's first place in the prompt",
    "frames": "the number of frames of a video",
}
"""The signals in words, for messages and tables."""


@dataclass(frozen=True)
class Plan:
    """How to choose tokens of one image: columns and a method for `cssp.select`, or the choice itself.

    Attributes
    ----------
    columns : Tensor (d, n), or None where `indices` are given
    method : str
        A name in `cssp.METHODS`.
    weights : Tensor (n,), optional
    include : tuple of int
        Columns that are taken first.
    options : mapping
        Options of the method.
    indices : tuple of int, optional
        The choice itself, in its order, of a rule that is no cssp method.
    nested : bool
        Whether the first j of `indices` are the choice for k = j, so that a tolerance can shorten them.
    merge : Tensor (len(indices), n) or (len(indices), n + 1), optional
        For systems that merge: output row j is ``merge[j] @ rows``, at the place of token ``indices[j]``. Rows of the
        identity are tokens left as they are. The last of n + 1 columns belongs to the vision tower's CLS row.
    """

    columns: Tensor | None = None
    method: str = "residual"
    weights: Tensor | None = None
    include: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    indices: tuple[int, ...] | None = None
    nested: bool = False
    merge: Tensor | None = None


@dataclass(frozen=True)
class Pruner:
    """A published system, or a cssp method, as a row of the table.

    Attributes
    ----------
    name, summary, citation : str
    plan : callable
        ``plan(features, k, weights, *, signals and options) -> Plan`` for one image, with features (n, d) and weights
        (n,) or None. Its keyword-only parameters say what it reads: names in `SIGNALS` are signals, required where they
        have no default; ``rng`` is the image's generator; all others are the pruner's options.
    relevance : Relevance, optional
        Used when the caller does not choose one.
    weighted : bool
        Whether the pruner uses a relevance.
    open_options : bool
        Whether any option is passed on to a cssp method, which checks it.
    merges : str
        What becomes of tokens that are not kept; empty where they are dropped.
    before_projector : bool
        Whether it merges rows of the vision tower, which the projector then maps.
    inside : Inside, optional
        How it acts inside the LLM; None for a pruner that acts in front of it.
    elsewhere : str
        For a system that reads the vision tower: whose rule is used where the tower is not CLIP's, has no CLS token, or
        feeds a projector that joins patches.
    unjoined : tuple of str
        Optional signals that are not read where the projector joins patches.
    """

    name: str
    summary: str
    citation: str
    plan: Callable[..., Plan]
    relevance: Relevance | None = None
    weighted: bool = True
    open_options: bool = False
    merges: str = ""
    before_projector: bool = False
    inside: Inside | None = None
    elsewhere: str = ""
    unjoined: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals that are required, by the plan or by the pruner's own relevance."""
        of_relevance = self.relevance.signals if self.relevance is not None else ()
        return tuple(dict.fromkeys([*of_relevance, *self.requires]))

    @property
    def requires(self) -> tuple[str, ...]:
        """Signals that the plan itself requires."""
        return tuple(p.name for p in self._keywords if p.name in SIGNALS and p.default is p.empty)

    @property
    def reads(self) -> tuple[str, ...]:
        """Signals that the plan itself is given, required or not."""
        return tuple(p.name for p in self._keywords if p.name in SIGNALS)

    @property
    def accepts(self) -> tuple[str, ...]:
        """All signals the pruner can use, depending on `relevance`."""
        relevance = ("clip_patches", "clip_text", "llm_text") if self.weighted else ()
        return tuple(dict.fromkeys([*relevance, *self.reads]))

    @property
    def uses_text(self) -> bool:
        """Whether the choice depends on the question by default."""
        return bool({"clip_text", "llm_text", "attention", "hidden"} & set(self.needs))

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the pruner's own options; a cssp method's are checked by cssp itself."""
        return tuple(p.name for p in self._keywords if p.name not in SIGNALS and p.name != "rng")

    @property
    def draws(self) -> bool:
        """Whether the plan itself uses random numbers."""
        return any(p.name == "rng" for p in self._keywords)

    @property
    def _keywords(self) -> list[inspect.Parameter]:
        found = inspect.signature(self.plan).parameters.values()
        return [p for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY]
